#!/usr/bin/env bash
# Licences, bans and sources of every dependency (deny.toml), and advisories where their database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="${IPSECMESH_CACHE:-$HOME/.cache/ipsecmesh}/cargo/bin:$PATH"
cargo deny --log-level error check bans licenses sources
if ! cargo deny --log-level error check advisories 2>/tmp/ipsecmesh-advisories.$$; then
    if grep -q 'failed to fetch advisory database' /tmp/ipsecmesh-advisories.$$; then
        echo "advisories: not checked, their database cannot be reached from here"
    else
        cat /tmp/ipsecmesh-advisories.$$ >&2
        rm -f /tmp/ipsecmesh-advisories.$$
        exit 1
    fi
fi
rm -f /tmp/ipsecmesh-advisories.$$
