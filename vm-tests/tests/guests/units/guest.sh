# A node under systemd: its daemon is reloaded, replaced and killed with pods running throughout; then the machine is
# rebooted, and reset. What happens in a boot depends on what the disk says of the ones before.
data=/var/lib/wharf
state=/run/wharf
fail() {
    echo "failed: $*"
    systemctl status wharfd.service wharfd.socket --no-pager --lines 0
    journalctl --no-pager --unit wharfd.service | tail -n 40
    exit 1
}
main_pid() { systemctl show wharfd.service --property MainPID --value; }
restarts() { systemctl show wharfd.service --property NRestarts --value; }
containers() { ls -d $state/pods/*/containers/* 2>/dev/null | sed 's|.*/||' | sort; }

# Two pods run, and whatever exists of containers, addresses, devices and layers belongs to them.
reconciled() {
    pods=$(wharf get pods --no-headers) || return 1
    [ "$(echo "$pods" | grep -c ' 1/1 *Running ')" = 2 ] && [ "$(echo "$pods" | wc -l)" = 2 ] || return 1
    [ "$(ls $data/containers)" = "$(containers)" ] && [ "$(containers | wc -l)" = 2 ] || return 1
    [ "$(jq '.leases | length' $state/network/leases.json)" = 2 ] || return 1
    [ "$(ls /sys/class/net/wharf0/brif | wc -l)" = 2 ] || return 1
    [ "$(ls $state/pods | wc -l)" = 2 ] && [ "$(pgrep -c wharf-shim)" = 2 ]
}
await() {
    until "$@"; do
        systemctl is-failed --quiet wharfd.service && fail "wharfd failed while waiting for: $*"
        sleep 0.1
    done
}
# Every process of a container, with the time it started: another one is never the same.
processes() {
    find /sys/fs/cgroup/wharf -name cgroup.procs -exec cat {} + | sort -n | while read -r pid; do
        cut -d ' ' -f 1,22 /proc/$pid/stat
    done
}
unharmed() {
    await reconciled
    [ "$before" = "$(processes)" ] || fail "$1: the containers' processes were $before and are $(processes)"
    echo "$1: the containers run on"
}

systemctl start wharfd.service || fail "wharfd does not start"
case $(cat $data/boots 2>/dev/null) in
"")
    wharf load -q -i /archives/base.tar >/dev/null || fail "load"
    await reconciled
    before=$(processes)
    [ "$(echo "$before" | wc -l)" = 2 ] || fail "two processes are expected: $before"

    echo 'log_level = "debug"' >/etc/wharf/wharfd.toml
    systemctl reload wharfd.service || fail "reload"
    journalctl --unit wharfd.service | grep -q 'configuration read again.*debug' || fail "the configuration was not read"
    echo 'log_level = "loud"' >/etc/wharf/wharfd.toml
    systemctl reload wharfd.service || fail "reload what is wrong"
    journalctl --unit wharfd.service | grep -q 'the configuration stays as it was.*loud' || fail "nothing was said"
    rm /etc/wharf/wharfd.toml
    unharmed reload

    # Clients that come while the daemon is replaced wait in the sockets that systemd holds.
    old=$(main_pid)
    cp /usr/local/bin/wharfd /usr/local/bin/wharfd.new && mv /usr/local/bin/wharfd.new /usr/local/bin/wharfd
    (while [ ! -e /tmp/enough ]; do wharf get pods >/dev/null 2>>/tmp/refused || echo refused >>/tmp/refused; done) &
    systemctl restart wharfd.service || fail "restart"
    touch /tmp/enough; wait
    [ ! -s /tmp/refused ] || fail "clients were refused: $(cat /tmp/refused)"
    [ "$(main_pid)" != "$old" ] || fail "the daemon is the old one"
    [ "$(readlink /proc/"$(main_pid)"/exe)" = /usr/local/bin/wharfd ] || fail "the daemon runs from the old file"
    unharmed upgrade

    await_restart() { [ "$(restarts)" = "$1" ] && systemctl is-active --quiet wharfd.service; }
    kill -KILL "$(main_pid)"
    await await_restart 1
    unharmed crash

    # A daemon that hangs misses its watchdog's limit, which a drop-in makes short.
    kill -STOP "$(main_pid)"
    await await_restart 2
    unharmed hang

    systemctl stop wharfd.socket wharfd.service || fail "stop"
    [ ! -e $state/api.sock ] || fail "a socket is left"
    [ "$before" = "$(processes)" ] || fail "stopping the daemon ended containers"
    systemctl start wharfd.service || fail "start again"
    unharmed stop

    jq -r '.leases[].address' $state/network/leases.json | sort >$data/addresses
    echo 1 >$data/boots
    systemctl reboot
    sleep 1000 ;;
1)
    await reconciled
    echo "after a reboot: the pods are back"
    echo 2 >$data/boots
    sync
    echo reset
    while :; do date >$data/date; sync; done ;;
2)
    await reconciled
    wharf system check || fail "the stores are damaged"
    [ "$(jq -r '.leases[].address' $state/network/leases.json | sort)" = "$(cat $data/addresses)" ] ||
        fail "addresses leak: $(cat $state/network/leases.json), and at first $(cat $data/addresses)"
    echo "after a reset: the pods are back"
    wharf delete deployment web || fail "delete"
    none() { [ -z "$(wharf get pods --no-headers)$(processes)$(containers)$(ls $data/containers)" ]; }
    await none
    [ "$(jq '.leases | length' $state/network/leases.json)" = 0 ] || fail "leases are left"
    [ -z "$(ls /sys/class/net/wharf0/brif)" ] || fail "devices are left"
    echo "after deletion: nothing is left" ;;
esac
