#!/bin/sh
# Builds runtime.wasm, the generic JavaScript runtime component, and its digest. Same sources and same tools, same bytes.
#
#   ./build.sh           build and replace runtime.wasm and runtime.wasm.sha256
#   ./build.sh --check   build in a temporary folder and compare with the committed digest
set -eu
cd "$(dirname "$0")"
here=$(pwd -P)

missing=
need() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need /usr/bin/rustc rustc-web
need /usr/lib/rustlib/src/rust/library rust-web-src
need clang clang
need llvm-ar llvm
if [ -n "$missing" ]; then
    echo "missing:$missing. Install with" >&2
    echo "    apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "missing: cargo, see https://rustup.rs" >&2
    exit 1
fi

check=
case "${1:-}" in
    "") ;;
    --check) check=yes ;;
    *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

# A fresh folder for --check: what is compared must not come from an earlier build.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
if [ -n "$check" ]; then target=$work/target; else target=${CARGO_TARGET_DIR:-$here/runtime/target}; fi

# The folder of every registry's sources is mapped to one name, and so is the crate's own: no path of this machine may reach the output.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
remap="--remap-path-prefix=$here/runtime=/runtime --remap-path-prefix=$target=/target --remap-path-prefix=/usr/lib/rustlib/src/rust=/rust"
cremap="-ffile-prefix-map=$target=/target"
(cd runtime && cargo fetch --locked --quiet)
for registry in "$cargo_home"/registry/src/*/; do
    remap="$remap --remap-path-prefix=${registry%/}=/crates"
    cremap="$cremap -ffile-prefix-map=${registry%/}=/crates"
done

# The linker comes with rustup's toolchain; Debian's compiler has none for WebAssembly.
host=$(rustc -vV | sed -n 's/^host: //p')
linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld

(
    # Debian's compiler builds the standard library for the target from Debian's sources: nothing is downloaded but crates.
    # A caller's own flags and wrappers are not taken over: they would change the bytes.
    unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CFLAGS
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$target"
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker"
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C link-arg=-zstack-size=1048576 -C strip=symbols $remap"
    export CC_wasm32_unknown_unknown=clang AR_wasm32_unknown_unknown=llvm-ar
    export CFLAGS_wasm32_unknown_unknown="-Os -DNDEBUG $cremap"
    cd runtime
    cargo build --locked -Zbuild-std=std,panic_abort --target wasm32-unknown-unknown --release
)

core=$target/wasm32-unknown-unknown/release/koksmat_javascript.wasm
# The encoder is a program for this machine: its folder may stay between builds, it has no part in the output's names.
CARGO_TARGET_DIR=${KOKSMAT_ENCODE_TARGET:-$here/encode/target} \
    cargo run --locked --quiet --release --manifest-path encode/Cargo.toml -- "$core" "$work/runtime.wasm"
(cd "$work" && sha256sum runtime.wasm > runtime.wasm.sha256)

if [ -n "$check" ]; then
    if cmp -s "$work/runtime.wasm.sha256" runtime.wasm.sha256 && sha256sum --check --status runtime.wasm.sha256; then
        echo "runtime.wasm is what these sources give"
    else
        echo "runtime.wasm is not what these sources give:" >&2
        echo "    committed: $(cut -d' ' -f1 runtime.wasm.sha256), file: $(sha256sum runtime.wasm | cut -d' ' -f1)" >&2
        echo "    built now: $(cut -d' ' -f1 "$work/runtime.wasm.sha256") with $(/usr/bin/rustc -V), $(clang --version | head -n1)" >&2
        exit 1
    fi
else
    mv "$work/runtime.wasm" "$work/runtime.wasm.sha256" .
    ls -l runtime.wasm
fi
