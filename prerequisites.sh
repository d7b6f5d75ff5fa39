#!/bin/sh
# Says what is missing of what the build needs, before it starts: the build's own message comes minutes later.
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing
  $1: $2"; }

need cargo "Rust 1.95 or newer, from https://rustup.rs"
need cc "a C compiler; Debian: build-essential, Fedora: gcc, macOS: xcode-select --install"
need make "Debian: build-essential, Fedora: make, macOS: xcode-select --install"
# As .cargo/config.toml has it: the system's OpenSSL, unless the environment says OPENSSL_NO_VENDOR=0.
if [ "${OPENSSL_NO_VENDOR:-1}" = 0 ]; then
    need perl "for OpenSSL's configuration; Debian and Fedora: perl"
    if command -v perl >/dev/null 2>&1; then
        perl -MFindBin -MIPC::Cmd -MFile::Compare -MFile::Copy -e 1 2>/dev/null || missing="$missing
  perl's own modules (FindBin, IPC::Cmd, File::Compare, File::Copy); Fedora: perl-core"
    fi
elif [ -z "${OPENSSL_DIR:-}${OPENSSL_INCLUDE_DIR:-}" ]; then
    # On macOS the build asks Homebrew itself, for one it has not linked into a common place.
    pkg-config --exists openssl 2>/dev/null || brew --prefix --installed openssl@3 >/dev/null 2>&1 || missing="$missing
  OpenSSL with its headers, and pkg-config which finds it; Debian: libssl-dev pkg-config, Fedora: openssl-devel pkgconf, macOS: brew install openssl@3;
    or build it too, with perl and four minutes: export OPENSSL_NO_VENDOR=0"
fi
if command -v cargo >/dev/null 2>&1; then
    minor=$(cargo --version | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    [ -z "$minor" ] || [ "$minor" -ge 95 ] || missing="$missing
  cargo 1.95 or newer, this is 1.$minor: rustup update"
fi

[ -z "$missing" ] && exit 0
printf 'Koksmat cannot be built here yet. Missing:%s\n' "$missing" >&2
exit 1
