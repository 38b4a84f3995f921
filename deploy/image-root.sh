#!/usr/bin/env bash
# image-root.sh - make what was installed under ROOT a root file system: libraries, a user, licences.
#
#   deploy/image-root.sh ROOT [cuda SITE-PACKAGES]    `cuda` adds what the mounted driver's libraries load,
#                                                     and NCCL, from NVIDIA's Python packages
#
# Libraries are those that ldd names, in the folder where the loader looks without a cache.  NCCL it does not
# name: the module loads it by itself, where GPUs cannot reach each other's memory.
set -euo pipefail
root=$1
multiarch=$(gcc -print-multiarch)
libs=$root/usr/lib/$multiarch
mkdir -p "$libs" "$root/etc" "$root/usr/share/doc" "$root/usr/lib64"
ln -sfn usr/lib "$root/lib"
ln -sfn usr/lib64 "$root/lib64"

add_licence() { # add_licence FILE: of the Debian package that FILE is from, if it is from one
    local package
    package=$(dpkg-query -S "*/$(basename "$1")" 2>/dev/null | head -1 | cut -d: -f1) || return 0
    [ -f "/usr/share/doc/$package/copyright" ] || return 0
    install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
}

add() { # add FILE: with its symbolic links followed, under the name that programs ask for
    case $1 in
    */ld-linux*) install -m 0755 "$(readlink -f "$1")" "$root/usr/lib64/$(basename "$1")" ;;
    *) install -m 0644 "$(readlink -f "$1")" "$libs/$(basename "$1")" ;;
    esac
    add_licence "$(readlink -f "$1")"
}

programs=("$root/usr/bin/inferd")
[ -f "$root/usr/lib/inferd/libinferd_cuda.so" ] && programs+=("$root/usr/lib/inferd/libinferd_cuda.so")
if [ "${2:-}" = cuda ]; then
    nccl=$3/nvidia/nccl/lib/libnccl.so.2
    install -D -m 0644 -t "$libs" "$nccl"
    install -D -m 0644 "$3"/nvidia_nccl_cu*.dist-info/licenses/License.txt "$root/usr/share/doc/libnccl2/copyright"
    programs+=("$nccl")
fi
ldd "${programs[@]}" | grep -q 'not found' && { ldd "${programs[@]}" >&2; exit 1; }
while read -r path; do add "$path"; done \
    < <(ldd "${programs[@]}" | grep -oE '/[^ ]+\.so[^ ]*' | grep -vE 'libinferd|libnccl' | sort -u)
if [ "${2:-}" = cuda ]; then
    [ ${#programs[@]} -eq 3 ] || { echo "image-root: no CUDA module" >&2; exit 1; }
    for name in libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1; do add "/lib/$multiarch/$name"; done
    # The container runtime mounts the driver into usr/lib/MULTIARCH only where it sees Debian.
    cp /etc/debian_version "$root/etc/"
fi
install -D -m 0644 LICENSE "$root/usr/share/doc/inferd/LICENSE"
# Built here, so no package has its licence.
install -D -m 0644 ../libmicrohttpd/COPYING "$root/usr/share/doc/libmicrohttpd/COPYING"
echo 'inferd:x:65532:65532::/nonexistent:/nonexistent' >"$root/etc/passwd"
echo 'inferd:x:65532:' >"$root/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
