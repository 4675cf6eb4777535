# The guest of the power cuts: opens and checks what the last one left, lists it, and works until the power fails.
data=/var/lib/wharf
fail() {
    echo "failed: $*"
    tail -n 40 /tmp/wharfd.log
    exit 1
}

httpd -h /registry -p 127.0.0.1:5000
wharfd >/tmp/wharfd.log 2>&1 &
daemon=$!
until wharf get namespaces >/dev/null 2>&1; do
    kill -0 $daemon || fail "wharfd does not start"
    sleep 0.05
done

wharf system check >/tmp/check || fail "$(cat /tmp/check)"
[ -z "$(ls $data/tmp)" ] || fail "unfinished work is left: $(ls $data/tmp)"
[ -z "$(ls $data/images | grep tmp)" ] || fail "unfinished files are left: $(ls $data/images)"
for layer in $data/snapshots/*/fs; do
    [ ! -e "$layer/SUMS" ] || (cd "$layer" && sha256sum -s -c SUMS) || fail "files of the layer $layer are damaged"
done
for number in 0 1 2 3; do
    ! wharf inspect 127.0.0.1:5000/small/$number:1 >/dev/null 2>&1 || echo "there image $number"
    ! wharf get namespace space-$number >/dev/null 2>&1 || echo "there namespace $number"
done
echo listed

if ! wharf inspect wharf.example/base:1 >/dev/null 2>&1; then
    wharf load -q -i /archives/base.tar || fail "load the first image"
    wharf apply -f /web.yaml || fail "apply the deployment"
fi
# What was declared runs again, and nothing of the containers that the power took is left.
reconciled() {
    pods=$(wharf get pods --no-headers)
    [ -n "$pods" ] && [ -z "$(echo "$pods" | grep -v ' 1/1 *Running ')" ] || return 1
    [ "$(ls $data/containers)" = "$(ls -d /run/wharf/pods/*/containers/* | sed 's|.*/||' | sort)" ]
}
until reconciled; do
    kill -0 $daemon || fail "wharfd ended"
    sleep 0.05
done

echo working
number=$(cat /seed)
below() {
    number=$(((number * 1103515245 + 12345) & 0x7fffffff))
    value=$(((number >> 12) % $1))
}
step() {
    echo "begin $1 $2 $3"
    shift 3
    "$@" || fail "$*"
}
while :; do
    below 4; n=$value
    image=127.0.0.1:5000/small/$n:1
    below 7
    case $value in
    0 | 1)
        if [ $n -lt 2 ]; then step make image $n wharf load -q -i /archives/$n.tar; else step make image $n wharf pull -q $image; fi
        echo "done make image $n" ;;
    2 | 3)
        wharf inspect $image >/dev/null 2>&1 || continue
        step remove image $n wharf rmi $image
        echo "done remove image $n" ;;
    4)
        printf 'apiVersion: v1\nkind: Namespace\nmetadata: {name: space-%s}\n' $n >/tmp/namespace.yaml
        step make namespace $n wharf apply -f /tmp/namespace.yaml
        echo "done make namespace $n" ;;
    5)
        step remove namespace $n wharf delete namespace space-$n --ignore-not-found
        echo "done remove namespace $n" ;;
    6)
        wharf scale deployment/web --replicas $((1 + n % 2)) || fail "scale" ;;
    esac
done
