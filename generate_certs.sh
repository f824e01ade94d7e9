#!/usr/bin/env bash
# Writes server.key and server.crt into the current folder, with shoal itself.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
if command -v shoal >/dev/null 2>&1; then
  exec shoal certs "$@"
fi
exec cargo run --quiet --manifest-path "$here/Cargo.toml" -- certs "$@"
