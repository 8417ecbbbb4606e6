# One build, two images. Both hold a single static binary and nothing else: no shell, no package manager.
#   docker build --target operator -t ghcr.io/ipsecmesh/operator:0.1.0 .
#   docker build --target agent    -t ghcr.io/ipsecmesh/agent:0.1.0 .
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# glibc is linked in statically; nothing here resolves names through NSS modules at run time but the API server's,
# which is an address inside a pod.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --target x86_64-unknown-linux-gnu -p ipsecmesh-operator -p ipsecmesh-agent \
    && mkdir -p /out \
    && cp target/x86_64-unknown-linux-gnu/release/ipsecmesh-operator target/x86_64-unknown-linux-gnu/release/ipsecmesh-agent /out/

FROM scratch AS operator
COPY --from=build /out/ipsecmesh-operator /ipsecmesh-operator
USER 65532:65532
ENTRYPOINT ["/ipsecmesh-operator"]
CMD ["run"]

# The agent needs CAP_NET_ADMIN on the host's network, and a pod cannot give ambient capabilities to another user
# than root: root without any other capability.
FROM scratch AS agent
COPY --from=build /out/ipsecmesh-agent /ipsecmesh-agent
ENTRYPOINT ["/ipsecmesh-agent"]
CMD ["run"]
