#!/usr/bin/env bash
# bookworm.sh - for scripts that source it: a bare Debian 12 as a tar, the package, and a count of what passed.
#
# Uses their `suite`, `build` and `work`.  The tar is made once, by mmdebstrap from Debian's mirror, and kept.
: "${suite:?}" "${build:?}" "${work:?}"
tar=build/deploy/bookworm.tar
passed=0 failed=0

is() { # is NAME COMMAND...: one more passed or failed
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1)); echo "pass  $suite: $name"
    else
        failed=$((failed + 1)); echo "FAIL  $suite: $name"; echo "$said" | tail -15
    fi
}
end() { echo "$passed passed, $failed failed"; [ "$failed" -eq 0 ]; exit; }

make_package() { (cd "$build" && cpack -G DEB -B "$work/deb" >"$work/cpack.log" 2>&1) || { tail -5 "$work/cpack.log"; false; }; }
make_tar() {
    [ -f "$tar" ] && return
    mkdir -p "$(dirname "$tar")"
    mmdebstrap --quiet --format=tar --variant=apt \
        --include="systemd,systemd-sysv,dbus,procps,libcjson1,libmicrohttpd12,libnettle8,libutf8proc2,libuv1" \
        bookworm "$work/new.tar" && mv "$work/new.tar" "$tar"
}
