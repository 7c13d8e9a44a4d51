# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The shell of a chapter, or of another host in it: it runs what it is sent, a
# number a line, from /run/check-docs/cmd.NUMBER.  What that has printed is in
# out.NUMBER, and its exit status in done.NUMBER.
#
# usage: shell.sh HOST

_d=/run/check-docs
_host=$1
_client="/usr/bin/python3 $_d/client.py"
_count=0            # of what this shell has numbered
declare -A _pids    # of servers that serve() has started

# --- programs that serve ---

_die() { echo "check-docs: $*" >&2; return 1; }

# _started PID LOG CONDITION...: wait until it is so, or the program has ended;
# print what the program has said, and return whether it runs.
_started() {
    local pid=$1 log=$2 i status=0
    shift 2
    for ((i = 0; i < 3000; i++)); do
        if "$@" 2>/dev/null; then
            cat "$log"
            server_log=$log
            server_pid=$pid
            return 0
        fi
        [ -d "/proc/$pid" ] || break
        sleep 0.01
    done
    [ ! -d "/proc/$pid" ] || kill -KILL "$pid"
    wait "$pid" || status=$?
    # It has gone to the background by itself, or has ended.
    cat "$log"
    [ "$status" = 0 ] && "$@" 2>/dev/null && server_log=$log
    return "$status"
}
_ready() { [ -S "$1" ] && $_client hello "$1"; }

# Those that have a monitor get two more of them: for QMP of the text, and for
# functions.
_monitored() {
    local name=$1 id log
    shift
    id=$_host-$((++_count))
    log=$_d/log.$id
    case $name in
    qemu-storage-daemon)
        set -- "$@" --chardev "socket,id=check-docs,path=$_d/$id.qmp,server=on,wait=off" --monitor chardev=check-docs \
            --chardev "socket,id=check-docs2,path=$_d/$id.side,server=on,wait=off" --monitor chardev=check-docs2 ;;
    *)  set -- -accel qtest -display none -nodefaults "$@" -qmp "unix:$_d/$id.qmp,server=on,wait=off" \
            -qmp "unix:$_d/$id.side,server=on,wait=off" ;;
    esac
    command "$name" "$@" > "$log" 2>&1 < /dev/null &
    _started $! "$log" _ready "$_d/$id.qmp" || return
    # QMP of the text is for what runs on this host.
    [ "$_host" != main ] || echo "$id" >> "$_d/programs"
    _side=$_d/$id.side
    vm_pid=$server_pid
    vm_log=$log
}

qemu-system-x86_64() {
    local words=()
    while [ $# -gt 0 ]; do
        case $1 in
        ...|-enable-kvm|--enable-kvm) ;;
        -accel|--accel|-cpu|--cpu|-display|-nographic)
            [ "$1" = -nographic ] || shift ;;
        -machine|-M|--machine)
            words+=("$1" "$(sed -E 's/,?accel=[^,]*//' <<< "$2")")
            shift ;;
        *) words+=("$1") ;;
        esac
        shift
    done
    _monitored qemu-system-x86_64 "${words[@]}"
}
qemu-storage-daemon() {
    local words=() word
    for word; do
        [ "$word" = ... ] || words+=("$word")
    done
    _monitored qemu-storage-daemon "${words[@]}"
}
qemu-nbd() {
    local word id log
    for word; do
        case $word in
        --fork|-c|--connect=*|-d|-L|--list|--version|-V|-h|--help|--pid-file=*)
            command qemu-nbd "$@"
            return ;;
        esac
    done
    id=$_host-$((++_count))
    log=$_d/log.$id
    command qemu-nbd --pid-file="$_d/pid.$id" "$@" > "$log" 2>&1 < /dev/null &
    _started $! "$log" test -s "$_d/pid.$id"
}
for _name in qemu-system-x86_64 qemu-storage-daemon qemu-nbd; do
    eval "/opt/qemu-quorum/bin/$_name() { $_name \"\$@\"; }"
done

sudo() { "$@"; }

# --- for run, use and output ---

vm() { qemu-system-x86_64 -machine q35 -m 32 "$@"; }

start_disk0() {
    local state='' i name
    if [ "${1-}" = --state ]; then
        shift
        i=0
        for name in a b c; do
            truncate -s 16M "/srv/$name/disk.state"
            state+=,state.$i.node-name=state$i,state.$i.driver=file,state.$i.filename=/srv/$name/disk.state
            i=$((i + 1))
        done
        state+=,state-init=on
    fi
    truncate -s 1G /srv/{a,b,c}/disk.raw
    serve /srv/b/disk.raw /srv/b.sock
    vm -qmp unix:/run/vm1.qmp,server=on,wait=off \
        -blockdev "driver=quorum,node-name=disk0,vote-threshold=2,children.0.node-name=copy0,children.0.driver=raw,children.0.file.driver=file,\
children.0.file.filename=/srv/a/disk.raw,children.1.node-name=copy1,children.1.driver=raw,children.1.file.node-name=box1,\
children.1.file.driver=nbd,children.1.file.server.type=unix,children.1.file.server.path=/srv/b.sock,children.2.node-name=copy2,\
children.2.driver=raw,children.2.file.driver=file,children.2.file.filename=/srv/c/disk.raw$state${1:+,$1}" \
        -device virtio-blk-pci,drive=disk0,id=vd0,share-rw=on
    export QEMU_QUORUM_SOCKET=/run/vm1.qmp
    [ -z "$state" ] || guest 'write -z 0 4k' flush
}

qmp() { $_client qmp "$_side" "$@"; }
guest() { $_client guest "$_side" "$@"; }
# guest_behind COMMAND: the same, without waiting for it, and while QMP goes on.
guest_behind() {
    if [ ! -S "$_d/guest.nbd" ]; then
        qmp nbd-server-start addr.type=unix addr.data.path="$_d/guest.nbd" &&
            qmp block-export-add type=nbd id=guest node-name=disk0 writable=true || return
    fi
    command qemu-io -f raw -c "$1" "nbd+unix:///disk0?socket=$_d/guest.nbd" > /dev/null 2>&1 &
}
stop_vm() { $_client qmp "$_side" quit && _gone "$vm_pid"; }
kill_vm() { kill -KILL "$vm_pid" && _gone "$vm_pid"; }
# Wait for a process, which need not be a child.
_gone() {
    local pid
    for pid; do
        wait "$pid" 2>/dev/null || :
        while [ -d "/proc/$pid" ] && ! grep -q '^State:.*Z' "/proc/$pid/status"; do
            sleep 0.01
        done
    done
}

serve() {
    case $2 in
    box*)
        on "$2" "qemu-nbd -f raw -x disk -e 0 -t --fork --pid-file=$_d/serve.$2 '$1'" &&
            _pids[$2]=$(cat "$_d/serve.$2") ;;
    *)  command qemu-nbd -f raw -e 0 -t --fork --pid-file="$_d/serve" -k "$2" "$1" &&
            _pids[$2]=$(cat "$_d/serve") ;;
    esac
}
_server() {
    local found=${_pids[$1]-}
    [ -n "$found" ] || found=$(pgrep -f -- "$1") || _die "no server: $1" || return
    echo "$found"
}
_signal_server() {
    local pids
    pids=$(_server "$2") || return
    # shellcheck disable=SC2086     # a word each
    kill "-$1" $pids || return
    # shellcheck disable=SC2086
    [ "$1" != KILL ] || _gone $pids
}
kill_server() { _signal_server KILL "$1" && unset "_pids[$1]"; }
hang_server() { _signal_server STOP "$1"; }
wake_server() { _signal_server CONT "$1"; }

# need PROGRAM...: leave the chapter alone where one of them is missing.
need() {
    local name
    for name; do
        command -v "$name" > /dev/null || { echo "there is no $name" > "$_d/skip"; return 1; }
    done
}

# serve_nfs HOST: its folder /export, as root only can.
serve_nfs() {
    need ganesha.nfsd rpcbind rpcinfo
    [ "$(cat /proc/self/uid_map | wc -l)" = 1 ] && grep -q ' 0 *4294967295' /proc/self/uid_map ||
        { echo 'ganesha.nfsd opens files by handle, as root only' > "$_d/skip"; return 1; }
    case $(ganesha.nfsd -v) in
    *V[1-5].*) ;;
    *) echo 'ganesha.nfsd exports no tmpfs from 6 on, and these hosts have nothing else' > "$_d/skip"; return 1 ;;
    esac
    on "$1" "
        mkdir /run/nfs /run/nfs/recovery
        printf '%s\n' 'NFS_CORE_PARAM { Protocols = 3; MNT_Port = 20048; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false; }' \
            'NFSV4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = /run/nfs/recovery; }' \
            'EXPORT { Export_Id = 1; Path = /export; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = VFS; } }' > /run/nfs/config
        rpcbind -f > /dev/null 2>&1 &
        until rpcinfo -p > /dev/null 2>&1; do sleep 0.02; done
        ganesha.nfsd -F -f /run/nfs/config -L /run/nfs/log -p /run/nfs/pid -N EVENT > /dev/null 2>&1 &
        _pids[nfs]=\$!"
    wait_for rpcinfo -T tcp "$1" nfs 3
}

# systemctl enable --now|start|stop UNIT...: as systemd, as far as our units go.
systemctl() {
    local verb=$1 unit
    shift
    [ "$verb" != daemon-reload ] || return 0
    for unit; do
        case $verb:$unit in
        *:--now|enable:*.timer|start:*.timer) ;;
        enable:*|start:*) _start_unit "${unit%.service}" || return ;;
        stop:*) kill_unit "${unit%.service}" TERM ;;
        *) _die "systemctl $verb $unit" || return ;;
        esac
        case $unit in
        *.timer) [ -e "$_units/${unit%%@*}@.timer" ] || _die "there is no $unit" || return ;;
        esac
    done
}
_units=/opt/qemu-quorum/lib/systemd/system
_start_unit() {
    local text key what
    text=$(sed -e ':a; /\\$/ { N; s/\\\n//; ba }' -e "s/%i/${1#*@}/g" "$_units/${1%%@*}@.service") || return
    while IFS='=' read -r key what; do
        case $key in
        Environment) eval "local $what" ;;
        EnvironmentFile) . "$what" || return ;;
        RuntimeDirectory) mkdir -p "/run/$what" ;;
        ExecStart) eval "$(sed -E 's/\$\{\w+\}/"&"/g' <<< "$what")" || return ;;
        esac
    done <<< "$text"
    _pids[$1]=$server_pid
}
kill_unit() { kill "-${2:-KILL}" "${_pids[$1]}" && _gone "${_pids[$1]}"; }

# corrupt FILE OFFSET BYTES: each byte becomes another one.
corrupt() {
    dd if="$1" bs=64k skip="$2" count="$3" iflag=skip_bytes,count_bytes status=none |
        LC_ALL=C tr '\000-\377' '\001-\377\000' |
        dd of="$1" bs=64k seek="$2" oflag=seek_bytes conv=notrunc status=none
}

wait_for() {
    local end=$((SECONDS + 30))
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { _die "it has not come in 30 s: $*"; "$@"; return 1; }
        sleep 0.1
    done
}
_status_has() { qemu-quorum status | grep -qF -- "$1"; }
wait_status() { wait_for _status_has "$1" || qemu-quorum status; }

with_block() {
    local words=${block//$'\\\n'/}
    eval "$* ${words//$'\n'/ }"
}

# --- other hosts ---

# _box HOST: have it, with a network, and folders that are empty, too.
_box() {
    local n=${1#box} pid
    [ ! -p "$_d/in.$1" ] || return 0
    [[ $1 =~ ^box[1-9]$ ]] || _die "no such host: $1" || return
    mkfifo "$_d/in.$1"
    unshare --net --mount --uts bash -c '
        mount -t tmpfs srv /srv
        mount -t tmpfs export /export
        mount -t tmpfs root /root
        mount -t tmpfs tmp /tmp
        mkdir /tmp/check-docs && mount --bind /run/check-docs /tmp/check-docs
        mount -t tmpfs run /run
        mkdir /run/check-docs && mount --move /tmp/check-docs /run/check-docs
        rmdir /tmp/check-docs
        ip link set lo up
        cd /root
        : > /run/check-docs/up.$1
        exec bash /run/check-docs/shell.sh "$1"' sh "$1" > /dev/null 2>&1 < /dev/null &
    pid=$!
    until [ -e "$_d/up.$1" ]; do
        [ -d "/proc/$pid" ] || _die "there is no $1" || return
        sleep 0.01
    done
    ip link add "$1" type veth peer eth0 netns "$pid"
    ip addr add "10.0.$n.1/24" dev "$1"
    ip link set "$1" up
    nsenter --net --target "$pid" ip addr add "10.0.$n.2/24" dev eth0
    nsenter --net --target "$pid" ip link set eth0 up
    nsenter --net --target "$pid" ip route add default via "10.0.$n.1"
}

# on HOST COMMAND: run it there.
on() {
    local id=$_host.$((++_count))
    _box "$1" || return
    printf '%s\n' "$2" > "$_d/cmd.$id"
    echo "$id" > "$_d/in.$1"
    until [ -e "$_d/done.$id" ]; do sleep 0.01; done
    cat "$_d/out.$id"
    return "$(cat "$_d/done.$id")"
}

# --- the loop ---

hostname "$_host" 2>/dev/null || :
[ -p "$_d/in.$_host" ] || mkfifo "$_d/in.$_host"
exec {_in}<> "$_d/in.$_host"
cd
while read -r _id <&"$_in"; do
    eval "$(cat "$_d/cmd.$_id")" > "$_d/out.$_id" 2>&1 < /dev/null
    _status=$?
    echo "$_status" > "$_d/done.$_id.tmp"
    mv "$_d/done.$_id.tmp" "$_d/done.$_id"
done
