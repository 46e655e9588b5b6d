# What the steps that need more than Python share. Sourced.

cache=${CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mobilenet-service-ci}
mkdir -p "$cache"

log() { printf '%s: [%3ds] %s\n' "$step" "$SECONDS" "$*" >&2; }

# A step that cannot run here is neither passed nor failed, and nobody shall miss it.
skip() {
  printf '\n########## SKIPPED: %s: %s ##########\n\n' "$step" "$*" >&2
  printf '%s: %s\n' "$step" "$*" >>"${CI_SKIPPED:-/dev/null}"
  exit 0
}

# once NAME COMMAND... - the steps run beside each other: of two, one makes what both need, the other waits.
once() {
  (
    flock 9
    "${@:2}"
  ) 9>"$cache/$1.lock"
}

# installed COMMAND=PACKAGE... - Debian packages for the commands that are missing.
installed() {
  local missing=() pair
  for pair; do command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || skip "not root, and not installed: ${missing[*]}"
  command -v apt-get >/dev/null || skip "no Debian, and not installed: ${missing[*]}"
  log "apt-get install ${missing[*]}"
  once apt apt_install "${missing[@]}" ||
    { tail -5 "$cache/apt.log" >&2; skip "apt-get could not install ${missing[*]}"; }
}

apt_install() {
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$cache/apt.log" 2>&1
}

# unpacked PACKAGE... - Debian packages under $cache/unpacked: programs whose services shall not start here.
unpacked() {
  once unpacked unpack "$@" || { tail -5 "$cache/unpacked.log" >&2; skip "apt-get could not download $*"; }
}
unpack() {
  local package
  mkdir -p "$cache/unpacked"
  for package; do
    [ -e "$cache/unpacked/$package" ] || (
      cd "$cache/unpacked" &&
        { apt-get download "$package" || { apt-get update && apt-get download "$package"; }; } &&
        dpkg --extract "$package"_*.deb . && rm "$package"_*.deb && touch "$package"
    ) >"$cache/unpacked.log" 2>&1 || return 1
  done
}

# The Debian mirror that this machine's apt uses.
mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 2>/dev/null |
    grep '/debian/*$' | head -n 1 || true
}

# runtime_root ARCH TAR - Python on Debian without shell, pip or package manager, as "distroless" images have
# it: unpacked and not configured, so that a foreign architecture needs no emulation.
runtime_root() { once "root-$1" make_runtime_root "$@"; }
make_runtime_root() {
  [ ! -s "$2" ] || return 0
  mmdebstrap --quiet --variant=extract --architectures="$1" --format=tar \
    --include=base-files,ca-certificates,libstdc++6,netbase,python3.11-minimal,libpython3.11-stdlib,tzdata \
    --extract-hook='cd "$1" && rm -rf bin/* sbin/* usr/sbin/* usr/share/doc usr/share/man usr/share/locale usr/share/perl5 \
      usr/lib/*/perl* usr/lib/python3.11/test var/cache var/lib/dpkg var/lib/apt &&
      find usr/bin -mindepth 1 ! -name "python3*" -delete && ln -sf python3.11 usr/bin/python3 &&
      mkdir -p tmp && chmod 1777 tmp' \
    bookworm "$2.tmp" "$(mirror)" >"$2.log" 2>&1 || { tail -5 "$2.log" >&2; return 1; }
  mv "$2.tmp" "$2"
}

# models PYTHON DIR - the default variants, fp32 and int8.
models() { once models make_models "$@"; }
make_models() {
  "$1" -m model_store.cli pull imagenet --if-empty --store "$2" >"$cache/models.log" 2>&1 ||
    { cat "$cache/models.log" >&2; return 1; }
}

# core_root CORE DIR - Python for ARM64 on this core. qemu looks for every file there first: no folder that shall
# be the host's. Linux' description of the CPU is the core's: the host's crashes onnxruntime under Debian 12's qemu.
core_root() {
  local part features='asimddp asimdhp fphp asimdrdm atomics lrcpc dcpop' i
  case $1 in
    cortex-a53) part=0xd03 features= ;; # Raspberry Pi 3
    cortex-a72) part=0xd08 features= ;; # Raspberry Pi 4
    cortex-a76) part=0xd0b ;;           # Raspberry Pi 5
    *) log "unknown core $1"; exit 2 ;;
  esac
  mkdir "$2"
  tar -x -f "$cache/runtime-arm64.tar" -C "$2" ./lib ./usr/lib ./usr/bin
  mkdir -p "$2/proc" "$2/sys/devices/system/cpu"
  for i in 0 1 2 3; do
    printf '%s\t: %s\n' processor "$i" Features "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid $features" \
      'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x0 'CPU part' "$part" 'CPU revision' 3
    echo
  done >"$2/proc/cpuinfo"
  for i in possible present online; do echo 0-3 >"$2/sys/devices/system/cpu/$i"; done
}

# emulated CORE ROOT SITE QEMU... - Python of ROOT with the packages of SITE; replaces this process.
emulated() {
  local core=$1 root=$2 site=$3
  shift 3
  local qemu=()
  while [[ $1 != *.py ]]; do qemu+=("$1"); shift; done
  exec env -u LD_PRELOAD -u LD_LIBRARY_PATH -u VIRTUAL_ENV QEMU_CPU="$core" QEMU_LD_PREFIX="$root" \
    PYTHONHOME="$root/usr" PYTHONPATH="$site" PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 \
    "${qemu[@]}" "$root/usr/bin/python3.11" "$@"
}
