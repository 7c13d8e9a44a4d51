#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a newcomer reads when something is missing, and what is left of a run
# that was interrupted.  Real conditions where an unprivileged user can make
# them; the rest is skipped.

. "$(dirname "$0")/lib.sh"

here=$top/tools
tmp=$(mktemp -d)
_job_of_test=
trap 'rm -rf "$tmp"; [ -z "$_job_of_test" ] || kill "$_job_of_test" 2>/dev/null || :' EXIT
count=0
failed=0

# expect NAME REGEX COMMAND...: it fails, and says so.
expect() {
    local name=$1 regex=$2 out status=0
    shift 2
    count=$((count + 1))
    out=$("$@" 2>&1 < /dev/null) || status=$?
    if [ "$status" != 0 ] && grep -qE "$regex" <<< "$out"; then
        echo "ok $count $name"
    else
        failed=1
        echo "not ok $count $name"
        sed 's/^/# /' <<< "exit status $status: $out"
    fi
}
skip() {
    count=$((count + 1))
    echo "ok $count $1 # SKIP $2"
}

# A clone of the scripts, with a build/ and a cache of its own.
clone=$tmp/clone
mkdir -p "$clone"
cp -r "$here" "$clone/tools"
export XDG_CACHE_HOME=$tmp/cache
fetch() { env "$@" "$clone/tools/setup" fetch; }

expect "no network" 'error: no network' fetch MIRROR=http://127.0.0.1:9/debian
mkdir -p "$tmp/empty"
expect "wrong suite" 'error: the Debian mirror does not have the suite trixie' \
    fetch "MIRROR=file:$tmp/empty"
inrelease=$(echo "$build"/apt/lists/*trixie_InRelease)
if [ -f "$inrelease" ]; then
    mkdir -p "$tmp/binary-only/dists/trixie"
    cp "$inrelease" "$tmp/binary-only/dists/trixie/InRelease"
    expect "no source packages" 'has no source packages \(deb-src\)' \
        fetch "MIRROR=file:$tmp/binary-only"
    sed 's/^Suite: .*/Suite: forged/' "$inrelease" > "$tmp/binary-only/dists/trixie/InRelease"
    expect "bad signature" 'signature of trixie is not by a key' \
        fetch "MIRROR=file:$tmp/binary-only"
else
    skip "no source packages" "the lists come from a cache"
    skip "bad signature" "the lists come from a cache"
fi
expect "no release series" 'BASE is not a release series of QEMU: next' fetch BASE=next
mkdir -p "$tmp/cache/qemu-quorum"
(cd "$tmp/cache/qemu-quorum" && primary=$(sed -n 's/^primary=//p' "$here/lib.sh") &&
     echo > some-file && sha256sum some-file > "$primary.manifest")
expect "a release that is in no suite" \
    'no suite of Debian.s has QEMU 0.9 now.* trixie-backports: not on this mirror .*MIRROR=' \
    bash -c '"$@" 2>&1 | tr "\n" " "; exit "${PIPESTATUS[0]}"' sh \
    env BASE=0.9 "MIRROR=file:$tmp/empty" "$clone/tools/setup" fetch
rm -r "$tmp/cache"
touch "$tmp/file"
expect "cache cannot be made" 'cannot write to the folder' fetch XDG_CACHE_HOME="$tmp/file"
expect "no room" 'not enough room in .* MiB free, 999999999 MiB needed for a test' \
    bash -c '. "$0"; need_space "$1" 999999999 "a test"' "$here/lib.sh" "$tmp"
mkdir -p "$clone/build/log"
expect "disk full on the way" 'error: the disk is full' \
    bash -c '. "$0"; run_logged t sh -c "echo x: No space left on device; exit 1" ||
             die_with_log t "something failed"' "$clone/tools/lib.sh"

expect "a test that hangs" 'Bail out! After 1 s these are ended' \
    bash -c '. "$0"; limit=1; run_logged t sleep 1000 || die_with_log t "it has failed"' \
    "$clone/tools/lib.sh"

# In a mount namespace of its own /etc/os-release can be another one.
in_ns=(unshare --mount)
[ "$(id -u)" -eq 0 ] || in_ns=(unshare --mount --map-root-user)
if "${in_ns[@]}" true 2>/dev/null; then
    printf 'ID=ubuntu\nVERSION_ID="24.04"\n' > "$tmp/os-release"
    expect "unsupported distribution" 'unsupported distribution: ubuntu 24.04' \
        "${in_ns[@]}" sh -c 'mount --bind "$1" "$(readlink -f /etc/os-release)" && exec "$0" packages' \
        "$here/setup" "$tmp/os-release"
    printf '#!/bin/sh\necho riscv64\n' > "$tmp/dpkg"
    chmod +x "$tmp/dpkg"
    expect "unsupported architecture" 'unsupported architecture: riscv64' \
        "${in_ns[@]}" sh -c 'mount --bind "$1" "$(readlink -f "$(command -v dpkg)")" && exec "$0" packages' \
        "$here/setup" "$tmp/dpkg"
else
    skip "unsupported distribution" "no mount namespaces here"
    skip "unsupported architecture" "no mount namespaces here"
fi

# Somebody who is not root, where there is no sudo.
mkdir "$tmp/bin"
for program in bash dirname id env cat dpkg dpkg-query grep sed head awk; do
    ln -s "$(command -v "$program")" "$tmp/bin/$program"
done
if [ "$(id -u)" -ne 0 ]; then
    user=()
else
    user=(setpriv --reuid=65534 --clear-groups --inh-caps=-all)
fi
chmod -R a+rX "$tmp"
if "${user[@]}" test -r "$clone/tools/lib.sh"; then
    expect "neither root nor sudo" 'error: packages are missing, and there is neither root nor sudo' \
        "${user[@]}" env PATH="$tmp/bin" "$clone/tools/setup" packages no-such-package
else
    skip "neither root nor sudo" "nobody can't read $tmp"
fi
expect "unknown kind of build" 'unknown kind of build: nonsense' "$here/build" nonsense

# An interrupt ends what was started, all of it.
cat > "$clone/tools/sleeper" <<'END'
. "$(dirname "$0")/lib.sh"
echo $$ > "$1.self"
run_with_bar sleeper ninja_lines sh -c 'echo $$ > '"$1"'; sleep 1000 & wait'
END
for signal in INT TERM HUP; do
    count=$((count + 1))
    rm -f "$tmp/pid"
    # What a shell without job control runs in the background ignores INT, and
    # what nohup runs ignores HUP.
    setsid --fork env -i --default-signal="$signal" PATH="$PATH" HOME="$tmp" \
        bash "$clone/tools/sleeper" "$tmp/pid" >/dev/null 2>&1
    for _ in $(seq 100); do
        [ ! -s "$tmp/pid" ] || break
        sleep 0.1
    done
    _job_of_test=$(cat "$tmp/pid")
    self=$(cat "$tmp/pid.self")
    kill "-$signal" "$self"
    for _ in $(seq 100); do
        [ -d "/proc/$_job_of_test" ] || [ -d "/proc/$self" ] || break
        sleep 0.1
    done
    if [ -d "/proc/$_job_of_test" ] || [ -d "/proc/$self" ]; then
        failed=1
        kill -KILL -- "-$self" "-$(cut -d' ' -f5 "/proc/$_job_of_test/stat")"
        echo "not ok $count SIG$signal leaves nothing behind"
    else
        echo "ok $count SIG$signal leaves nothing behind"
    fi
    _job_of_test=
done

echo "1..$count"
exit "$failed"
