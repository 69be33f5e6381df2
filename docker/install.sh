#!/bin/sh
# Build the wheel and install it into the environment /opt/emra, at tested releases and from wheels alone.
#   install.sh EXTRAS [LOCK [option of venv]]
# LOCK is a file of requirements/; without one, that of this Python.
set -eu
extras=$1
lock=${2:-python-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt}
test -f "requirements/$lock" || { echo "requirements/$lock is not here; this Python has no tested releases" >&2; exit 1; }
python3 -m venv ${3:+"$3"} /opt/emra
pip() { /opt/emra/bin/python -m pip --no-cache-dir --disable-pip-version-check "$@"; }
pip install --constraint "requirements/$lock" setuptools
pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel .
pip install --only-binary=:all: --constraint "requirements/$lock" "$(echo /tmp/wheel/emra_deploy-*.whl)[$extras]"
# What installed it is not needed to run it.
pip uninstall --yes setuptools pip
