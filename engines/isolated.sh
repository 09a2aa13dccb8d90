#!/bin/sh
# Runs a command in Linux namespaces of its own: a network that is cut off from the outside, with a name for each host of a
# small cluster; its own processes, mounts and shared memory. Whatever the command starts ends with it, and it
# ends after half an hour.
# No privilege is needed. Where the kernel refuses, the command runs without, and BEAM_CURATE_NAMESPACES says why.
#
# Usage: engines/isolated.sh <command> [argument]...
namespaces="--user --map-root-user --net --mount --pid --uts --ipc --fork --kill-child --mount-proc"
refusal=""
command -v unshare > /dev/null || refusal="unshare (util-linux) is not installed"
command -v ip > /dev/null || refusal="ip (iproute2) is not installed"
# shellcheck disable=SC2086 # the options are words
[ -n "$refusal" ] || unshare $namespaces ip link set lo up 2> /dev/null || refusal="the kernel refuses new namespaces"
if [ -n "$refusal" ]; then
  BEAM_CURATE_NAMESPACES="no: $refusal" exec "$@"
fi
# shellcheck disable=SC2086
BEAM_CURATE_NAMESPACES=yes exec timeout --kill-after=10 1800 unshare $namespaces sh -c '
  mount --bind "$1" /etc/hosts && hostname master && ip link set lo up && shift && exec "$@"
' isolated "$(dirname "$0")/hosts" "$@"
