#!/usr/bin/env bash
# Puts the headers and the library of ONNX Runtime into FOLDER/include and FOLDER/lib, with apt and pip alone: the
# headers are those of Debian's libonnxruntime-dev (trixie has it; older releases take it from there, without changing
# their own sources), the library is that of the installed Python package.
#
#   tests/cpp/onnxruntime.sh build/onnxruntime [PYTHON]     then     cmake ... -DONNXRUNTIME_ROOT=build/onnxruntime
#
# Anywhere else, unpack a release of ONNX Runtime and name its folder.
set -euo pipefail
root="$(realpath -m "${1:?usage: onnxruntime.sh FOLDER [PYTHON]}")"
python="${2:-python3}"

command -v apt-get >/dev/null || { echo "no apt-get: unpack a release of ONNX Runtime instead" >&2; exit 3; }
library="$("$python" -c 'import pathlib, onnxruntime
print(*pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*"))')"
[ -f "$library" ] || { echo "$python has no onnxruntime: pip install onnxruntime" >&2; exit 3; }

staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT
mkdir -p "$staging/lists/partial" "$staging/archives/partial" "$staging/parts" "$root/lib"

# The mirror that this machine uses already.
mirror="$(apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "main" && $2 !~ /security/ { print $2; exit }')"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] ${mirror:?this machine has no Debian mirror} trixie main" >"$staging/sources.list"
apt=(apt-get -qq -o "Dir::Etc::SourceList=$staging/sources.list" -o "Dir::Etc::SourceParts=$staging/parts"
    -o "Dir::State::Lists=$staging/lists" -o "Dir::Cache=$staging" -o "Dir::Cache::Archives=$staging/archives"
    -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$staging" && "${apt[@]}" download libonnxruntime-dev && dpkg -x libonnxruntime-dev_*.deb unpacked)

rm -rf "$root/include"
cp -r "$staging/unpacked/usr/include" "$root/include"
ln -sfn "$library" "$root/lib/libonnxruntime.so.1"
ln -sfn libonnxruntime.so.1 "$root/lib/libonnxruntime.so"
