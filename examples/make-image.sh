#!/bin/sh
# Makes a docker-archive of a small image from the machine's static busybox, without any network.
# usage: make-image.sh OUT.tar NAME:TAG [CMD...]
# The image has the applets as symlinks, accounts, a sticky /tmp and /www/index.html.
# Its default command serves /www on port 8080.
set -eu
umask 022

if [ $# -lt 2 ]; then
    echo "usage: make-image.sh OUT.tar NAME:TAG [CMD...]" >&2
    exit 2
fi
out=$1
name=$2
shift 2
[ $# -gt 0 ] || set -- httpd -f -p 8080 -h /www

busybox=${BUSYBOX:-/bin/busybox}
if ! [ -x "$busybox" ]; then
    echo "make-image.sh: $busybox is missing; install busybox-static, or set BUSYBOX" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/proc" "$root/root" "$root/sys" "$root/tmp" "$root/www"
chmod 0700 "$root/root"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
chmod 0755 "$root/bin/busybox"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/www:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' \
    > "$root/etc/passwd"
printf 'root:x:0:\nlog:x:4:www\nwww:x:33:\nnobody:x:65534:\n' > "$root/etc/group"
printf '<h1>Hello from %s</h1>\n' "$name" > "$root/www/index.html"

# The same input makes the same digests: sorted names, one owner, one time.
archive() {
    tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=posix \
        --pax-option=delete=atime,delete=ctime "$@"
}

mkdir "$work/image"
archive --file "$work/image/layer.tar" --directory "$root" .
diff_id=$(sha256sum < "$work/image/layer.tar" | cut -d ' ' -f 1)

json_string() {
    printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"
}
cmd=
for word in "$@"; do
    cmd=$cmd${cmd:+,}$(json_string "$word")
done
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
esac
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=%s"],"Cmd":[%s],"WorkingDir":"/","ExposedPorts":{"8080/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$path" "$cmd" "$diff_id" > "$work/image/config.json"
printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "$(json_string "$name")" \
    > "$work/image/manifest.json"
archive --file "$out" --directory "$work/image" manifest.json config.json layer.tar
