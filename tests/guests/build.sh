#!/usr/bin/env bash
# Builds the components the tests run into target/guests/NAME.wasm (core modules; the host makes components of them).
#
#   tests/guests/build.sh           build what changed
#   tests/guests/build.sh --env     print what to export so that cargo builds for wasm32-unknown-unknown here
#
# With rustup's target the compiler in PATH is used. Otherwise Debian's rustc-web with a standard library built once from
# rust-web-src (about a minute). Nothing is ever downloaded by rustup.
set -euo pipefail
shopt -s inherit_errexit 2>/dev/null || true

target=wasm32-unknown-unknown
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
out="$root/target/guests"
build="$root/target/guests-build" # never the host's: another rustc would rebuild everything

say() { echo "guests: $*" >&2; }

if command -v sha256sum >/dev/null; then sha() { sha256sum "$@"; }; else sha() { shasum -a 256 "$@"; }; fi

# ---- The toolchain ---------------------------------------------------------------------------------------------------------------

has_rustup_target() {
    ls "$(rustc --print target-libdir --target $target 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1
}

has_debian_rust() { [ -x /usr/bin/rustc ] && [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ]; }

# install PACKAGE…: by itself where that is possible, else it says the line.
install() {
    local line="apt-get install -y --no-install-recommends --no-remove $*"
    if ! command -v apt-get >/dev/null; then
        say "there is no $target here. Run:  rustup target add $target"
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        say "there is no $target here. Run:  rustup target add $target"
        say "                          or:  sudo $line"
        return 1
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    $line >&2 || { apt-get update >&2 && $line >&2; }
}

# Prints the linker: any Rust toolchain of rustup has one, and so has Debian's lld.
linker() {
    local found
    for found in "$(rustc --print sysroot 2>/dev/null)"/lib/rustlib/*/bin/rust-lld rust-lld wasm-ld $(compgen -c wasm-ld- | sort -rV); do
        command -v "$found" && return
    done
    install lld && command -v wasm-ld
}

# Prints the folder with the standard library, which it builds when there is none for this compiler.
debian_sysroot() {
    local key folder scratch
    key="$(/usr/bin/rustc -V | sha | cut -c 1-12)"
    folder="$root/target/guest-std/$key"
    if [ ! -d "$folder/lib" ]; then
        say "building the standard library with $(/usr/bin/rustc -V), once (about a minute)"
        scratch="$root/target/guest-std/.building-$key"
        rm -rf "$scratch"
        mkdir -p "$scratch/crate/src" "$scratch/lib/rustlib/$target/lib"
        printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' > "$scratch/crate/Cargo.toml"
        echo '#![no_std]' > "$scratch/crate/src/lib.rs"
        # Bitcode in it is what lets guests use link-time optimisation. cargo calls -Zbuild-std unstable, hence the bootstrap flag.
        (cd "$scratch/crate" && env -u CARGO_TARGET_DIR -u RUSTFLAGS RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=-Cembed-bitcode=yes \
            cargo build --quiet -Zbuild-std=std,panic_abort --target $target --release >&2)
        rm "$scratch"/crate/target/$target/release/deps/libempty-*.rlib
        cp "$scratch"/crate/target/$target/release/deps/*.rlib "$scratch/lib/rustlib/$target/lib/"
        rm -rf "$scratch/crate"
        rm -rf "$folder" && mv "$scratch" "$folder"
    fi
    echo "$folder"
}

toolchain() {
    if has_rustup_target; then return; fi
    has_debian_rust || install rustc-web rust-web-src || return 1
    local sysroot lld
    lld="$(linker)" || return 1
    sysroot="$(debian_sysroot)" || return 1
    echo "export RUSTC=/usr/bin/rustc"
    echo "export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='--sysroot=$sysroot'"
    echo "export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='$lld'"
}

# ---- The build -------------------------------------------------------------------------------------------------------------------

names() { (cd "$here" && for manifest in */Cargo.toml; do dirname "$manifest"; done); }

# What the result depends on, by content: a checkout or a touch changes nothing.
stamp() {
    (cd "$root" && {
        rustc -V 2>/dev/null || true
        /usr/bin/rustc -V 2>/dev/null || true
        sources=(tests/guests sdk/rust wit -type f ! -path '*/target/*' ! -name '*.md' ! -name '*.wat')
        find "${sources[@]}" | LC_ALL=C sort
        find "${sources[@]}" -print0 | LC_ALL=C sort -z | xargs -0 cat
    } | sha | cut -c 1-64)
}

main() {
    mkdir -p "$root/target"
    # Two at once wait for each other; where there is no flock they are merely slower.
    if command -v flock >/dev/null; then exec 9> "$root/target/.guests.lock" && flock 9; fi
    if [ "${1:-}" = --env ]; then toolchain; return; fi
    [ $# = 0 ] || { say "usage: build.sh [--env]"; return 2; }

    local now missing=0 name
    now="$(stamp)"
    for name in $(names); do [ -f "$out/$name.wasm" ] || missing=1; done
    if [ $missing = 0 ] && [ "$(cat "$out/.stamp" 2>/dev/null)" = "$now" ]; then return; fi

    local exports
    exports="$(toolchain)" || return 1
    eval "$exports"
    say "building $(names | tr '\n' ' ')"
    mkdir -p "$out"
    (cd "$here" && env -u RUSTFLAGS CARGO_TARGET_DIR="$build" cargo build --quiet --release --target $target 9>&-)
    for name in $(names); do
        # Whoever reads the old file now keeps it.
        cp "$build/$target/release/$name.wasm" "$out/.$name.new" && mv "$out/.$name.new" "$out/$name.wasm"
        say "target/guests/$name.wasm, $(wc -c < "$out/$name.wasm" | tr -d ' ') bytes"
    done
    echo "$now" > "$out/.stamp"
}

main "$@"
