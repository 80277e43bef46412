#!/bin/sh
# Puts the unit, the user, the lock's rights and example configuration in their places.
# Starts nothing, and never overwrites a file under /etc/nodeproxy. A second run is harmless.
#
#   sudo sh install.sh                     this machine; the program must be in /opt/nodeproxy
#   DESTDIR=/tmp/tree sh install.sh        below another root, without touching this machine
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dest=${DESTDIR:-}

put() { # put FILE TARGET
    install -D -m 0644 "$here/$1" "$dest$2"
    echo "installed $2"
}

keep() { # keep FILE TARGET: only where there is none
    if [ -e "$dest$2" ]; then
        echo "kept      $2"
    else
        put "$1" "$2"
    fi
}

if [ -z "$dest" ] && [ ! -x /opt/nodeproxy/bin/nodeproxy ]; then
    echo "install.sh: /opt/nodeproxy/bin/nodeproxy is missing; make it first:" >&2
    echo "  python3 -m venv /opt/nodeproxy && /opt/nodeproxy/bin/pip install CHECKOUT" >&2
    exit 1
fi

put nodeproxy.service /etc/systemd/system/nodeproxy.service
put nodeproxy.sysusers.conf /etc/sysusers.d/nodeproxy.conf
put nodeproxy.tmpfiles.conf /etc/tmpfiles.d/nodeproxy.conf
keep nodeproxy.yaml /etc/nodeproxy/nodeproxy.yaml
keep services.yaml /etc/nodeproxy/services.yaml

if [ -z "$dest" ]; then
    systemd-sysusers nodeproxy.conf
    systemd-tmpfiles --create nodeproxy.conf
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
    fi
    echo "now: edit /etc/nodeproxy, then: systemctl enable --now nodeproxy"
fi
