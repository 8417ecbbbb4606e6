# Each target is one command; what they do stands in the scripts and binaries that they call.
CARGO ?= cargo
# Always the whole workspace and an example, so that every command shares one set of features, which are those of the tests,
# and compiles nothing twice.
LAB = $(CARGO) build --quiet --workspace --bins --example conformance && $(or $(CARGO_TARGET_DIR),target)/debug/ipsecmesh-lab

.PHONY: demo test check setup lint unit sim-nightly deny charts e2e interop hosts lab lab-down

## The two commands
demo: setup ## Boot a cluster of real kernels, encrypt it, show it on the wire, clean up
	$(LAB) demo

test: setup lint deny charts unit e2e ## Everything: format, lints, unit, property, simulation, namespaces, end-to-end

## The inner loop
check: lint unit ## Format, lints and tests without a cluster

setup: ## Install what is missing (Debian packages, pinned tools); needs root
	./e2e/setup.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --test mesh --test interop --quiet -- -D warnings

unit:
	$(CARGO) test --workspace --quiet
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

sim-nightly: ## 200,000 seeds of the simulation on all processors: about five minutes on two
	IKE_SIM_SEEDS=200000 IKE_SIM_FIRST=20000 $(CARGO) test --workspace --test sim one_seed_or_many

deny:
	./e2e/deny.sh

charts:
	$(LAB) charts

# Trials that have not been seen green yet are no gate.
UNSETTLED = newer:: libreswan:: life::down_and_up life::crash refusals::child_proposals refusals::selectors \
	refusals::they_want refusals::wider

e2e:
	$(CARGO) test --workspace --test interop -- $(foreach name,$(UNSETTLED),--skip $(name))
	$(CARGO) test --workspace --test mesh

interop: setup ## Every trial with every peer, those that are no part of `make test` yet included
	$(CARGO) test --workspace --test interop

## Without Kubernetes
hosts: setup ## A root shell on a kernel with ESP, for docs/STANDALONE.md
	$(LAB) hosts

## A lab that stays
lab: setup ## Boot the cluster with the product installed and leave it running
	$(LAB) up

lab-down: ## End it
	$(LAB) down
