#!/usr/bin/env bash
# Makes this machine ready for `make demo` and `make test`: installs what is missing, by package name, and nothing else.
# Running it again does nothing. Needs root, a Debian with its package sources, Go and Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

# Program → the Debian package that brings it.
packages=()
need() {
    command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "the lab makes network namespaces and taps: run this as root"
[ "$(uname -m)" = x86_64 ] || fail "the lab's kernels are User Mode Linux, which exists for x86_64 only; this is $(uname -m)"
[ -c /dev/net/tun ] || fail "/dev/net/tun is missing: load the kernel module tun (modprobe tun)"

# Many containers leave /usr/sbin and Go's own folder out of PATH.
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin:$HOME/.cargo/bin"

need linux.uml user-mode-linux
need tcpdump tcpdump
need ip iproute2
need iptables iptables
need ping iputils-ping
need kmod kmod
need setpriv util-linux
need nsenter util-linux
# Roots of newer suites: their kernels and their peers.
need debootstrap debootstrap
need unshare util-linux
# The peer of the interoperability tests. Its plugins are no programs.
need charon-systemd charon-systemd
need swanctl strongswan-swanctl
plugins=/usr/lib/ipsec/plugins
[ -e "$plugins/libstrongswan-openssl.so" ] || packages+=(libstrongswan-standard-plugins)
[ -e "$plugins/libstrongswan-chapoly.so" ] || packages+=(libstrongswan-extra-plugins)

if [ "${#packages[@]}" -gt 0 ]; then
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The lab starts what it needs in namespaces of its own; a package's service would take the host's ports.
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

ls -d /usr/lib/uml/modules/*/ >/dev/null 2>&1 || fail "user-mode-linux brought no modules to /usr/lib/uml/modules"

wanted_go=$(sed -n 's/^go //p' e2e/controlplane/go.mod)
command -v go >/dev/null 2>&1 || fail "Go $wanted_go or later is missing: https://go.dev/dl/"
found_go=$(go env GOVERSION | sed 's/^go//')
[ "$(printf '%s\n' "$wanted_go" "$found_go" | sort -V | head -1)" = "$wanted_go" ] ||
    fail "Go $wanted_go or later is needed, this is $found_go: https://go.dev/dl/"
command -v cargo >/dev/null 2>&1 || fail "Rust is missing: https://rustup.rs"

# cargo-deny judges licences and sources for `make test`; one pinned version, in the cache.
cache="${IPSECMESH_CACHE:-$HOME/.cache/ipsecmesh}"
if ! PATH="$cache/cargo/bin:$PATH" command -v cargo-deny >/dev/null 2>&1; then
    say "building cargo-deny (once per machine)"
    cargo install --quiet --locked --root "$cache/cargo" cargo-deny
fi

say "ready: $(linux.uml --version) kernels, Go $found_go, $(cargo --version)"
