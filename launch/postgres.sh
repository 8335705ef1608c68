#!/usr/bin/env bash
# A PostgreSQL database in a folder, for the studies of a cluster: start it on a login node or any other
# machine that the workers reach. Stopped and started again, it has what it had.
# Usage: launch/postgres.sh start DIR [--host=ADDRESS] [--port=5433] [--connections=200] [--dry-run]
#        launch/postgres.sh stop DIR
# ADDRESS is what workers connect to: 127.0.0.1 by default, which no other machine reaches.
# Prints the two lines that a worker needs; the password lies in DIR/pgpass alone, for its owner to read.
# Needs PostgreSQL's own programs: apt-get install postgresql, conda install postgresql, or module load.
set -euo pipefail

usage() {
  sed -n '4,6p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
}
[ $# -ge 2 ] || usage
verb="$1" dir="$2"
shift 2
host=127.0.0.1 port=5433 connections=200 dry=""
for flag in "$@"; do
  case "$flag" in
    --host=*) host="${flag#*=}" ;;
    --port=*) port="${flag#*=}" ;;
    --connections=*) connections="${flag#*=}" ;;
    --dry-run) dry=yes ;;
    *)
      echo "postgres: found $flag" >&2
      usage
      ;;
  esac
done

# Debian keeps the server's programs off the PATH.
bin="$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1 || true)"
if [ -z "$bin" ]; then
  echo "postgres: found no initdb on the PATH or in /usr/lib/postgresql; install PostgreSQL's server" >&2
  exit 2
fi
bin="$(dirname "$bin")"

run() {
  if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi
}
# The server refuses to run as root, as in a container: there its files belong to the user postgres.
exec {quiet}>/dev/null
[ -z "$dry" ] || exec {quiet}>&1  # what would be run is shown
as_owner() {
  if [ "$(id -u)" -eq 0 ]; then run runuser -u postgres -- "$@"; else run "$@"; fi
}

case "$verb" in
  start)
    if [ -n "$dry" ]; then
      echo "would make: $dir with a new password in $dir/pgpass, readable by its owner alone"
    elif [ ! -e "$dir/pgpass" ]; then
      mkdir -p "$dir"
      (
        umask 077
        password="$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
        echo "$password" >"$dir/password"
        echo "*:*:*:bonescan:$password" >"$dir/pgpass"
      )
      [ "$(id -u)" -ne 0 ] || chown postgres: "$dir" "$dir/password"
    fi
    dir="$(realpath -m "$dir")"
    if [ ! -e "$dir/data/PG_VERSION" ]; then
      as_owner "$bin/initdb" --pgdata="$dir/data" --username=bonescan --auth=scram-sha-256 \
        --pwfile="$dir/password" --encoding=UTF8 >&"$quiet"
      if [ -z "$dry" ]; then
        # Other machines of the workers may connect too, with the password.
        echo "host all bonescan all scram-sha-256" >>"$dir/data/pg_hba.conf"
        rm "$dir/password"
        # Without the client's programs, which not every machine with a server has.
        echo "create database bonescan" | as_owner "$bin/postgres" --single -D "$dir/data" postgres >/dev/null 2>&1
      fi
    fi
    as_owner "$bin/pg_ctl" --pgdata="$dir/data" --wait --log="$dir/server.log" --options="-p $port \
-c listen_addresses='$host' -c unix_socket_directories='$dir' -c max_connections=$connections" start >&2
    echo "export PGPASSFILE=$dir/pgpass"
    echo "bonescan sweep … --storage=postgresql+psycopg://bonescan@$host:$port/bonescan"
    ;;
  stop) as_owner "$bin/pg_ctl" --pgdata="$(realpath -m "$dir")/data" --wait --mode=fast stop >&2 ;;
  *) usage ;;
esac
