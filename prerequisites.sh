#!/bin/sh
# Says what is missing of what the build needs, before it starts: OpenSSL's own message comes minutes later.
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing
  $1: $2"; }

need cargo "Rust 1.95 or newer, from https://rustup.rs"
need cc "a C compiler; Debian: build-essential, Fedora: gcc, macOS: xcode-select --install"
need make "Debian: build-essential, Fedora: make, macOS: xcode-select --install"
need perl "for OpenSSL's configuration; Debian and Fedora: perl"
if command -v perl >/dev/null 2>&1; then
    perl -MFindBin -MIPC::Cmd -MFile::Compare -MFile::Copy -e 1 2>/dev/null || missing="$missing
  perl's own modules (FindBin, IPC::Cmd, File::Compare, File::Copy); Fedora: perl-core"
fi
if command -v cargo >/dev/null 2>&1; then
    minor=$(cargo --version | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    [ -z "$minor" ] || [ "$minor" -ge 95 ] || missing="$missing
  cargo 1.95 or newer, this is 1.$minor: rustup update"
fi

[ -z "$missing" ] && exit 0
printf 'Koksmat cannot be built here yet. Missing:%s\n' "$missing" >&2
exit 1
