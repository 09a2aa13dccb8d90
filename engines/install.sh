#!/bin/sh
# Installs the engines that the commands are tested on into .tools/, once:
#   .tools/prism   Beam's Prism runner of the installed Beam version, built by Go
#   .tools/flink/  jars of a Flink cluster and of Beam's job server, fetched by Maven
# An engine that cannot be had is left out; .tools/<engine>.missing then says why, and its tests are skipped with that reason.
#
# Usage: engines/install.sh <python of the virtual environment>
set -u
cd "$(dirname "$0")/.."
python=$1
tools=$PWD/.tools
mkdir -p "$tools"

missing() {  # missing <engine> <reason>
  echo "$2" > "$tools/$1.missing"
  echo "$1 is not installed: $2" >&2
}

install_prism() {
  version=$("$python" -c 'from importlib.metadata import version; print(version("apache-beam"))') || return 1
  if [ ! -x "$tools/prism-$version" ]; then
    command -v go > /dev/null || { missing prism "Go is not installed"; return 0; }
    echo "building Prism $version (a few minutes, once)"
    GOBIN="$tools/gobin" timeout 900 go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$version" \
      > "$tools/prism.log" 2>&1 \
      || { missing prism "go install of Prism $version failed; see .tools/prism.log"; return 0; }
    mv "$tools/gobin/prism" "$tools/prism-$version"
    rmdir "$tools/gobin"
  fi
  ln -sfn "prism-$version" "$tools/prism"
  rm -f "$tools/prism.missing"
}

install_flink() {
  if ! cmp -s engines/flink/pom.xml "$tools/flink/pom.xml"; then
    command -v java > /dev/null || { missing flink "Java is not installed"; return 0; }
    command -v mvn > /dev/null || { missing flink "Maven is not installed"; return 0; }
    echo "fetching Flink and Beam's job server for it (150 MB, once)"
    rm -rf "$tools/flink"
    timeout 900 mvn --batch-mode --file engines/flink/pom.xml dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$tools/flink" > "$tools/flink.log" 2>&1 \
      || { missing flink "Maven could not fetch Flink; see .tools/flink.log"; return 0; }
    cp engines/flink/pom.xml "$tools/flink/pom.xml"  # last: the mark of a complete folder
  fi
  rm -f "$tools/flink.missing"
}

install_prism && install_flink
