#!/bin/sh
# Builds a sqlite3 whose `.recover` works, as the one given: Debian's is made without the table that it needs, prints
# "SQL logic error" and leaves an empty database. The source is SQLite's own, as the npm package sqlite3 carries it.
set -eu
target=$1
package=sqlite3@6.0.1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "$package" >/dev/null)
tar -xzf "$work"/sqlite3-*.tgz -C "$work"
tar -xzf "$work"/package/deps/sqlite-autoconf-*.tar.gz -C "$work"
cd "$work"/sqlite-autoconf-*/
cc -O2 -DSQLITE_ENABLE_DBPAGE_VTAB -DSQLITE_THREADSAFE=0 -o "$work/shell" shell.c sqlite3.c -lm -ldl
"$work/shell" :memory: "CREATE TABLE t(x); INSERT INTO t VALUES (7);" .recover | grep -q "VALUES (1, 7)"
mv "$work/shell" "$target"
