# deps.sh - system packages, for the other scripts. Sourced.
#
#   need_packages PACKAGE...    installs what is missing; when not root, says the exact line and ends

missing_packages() {
  local p
  for p in "$@"; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) in installed) ;; *) echo "$p" ;; esac
  done
}

need_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" != 0 ]; then
    echo "$(basename "$0"): these system packages are missing. Run this line, then try again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "installing: ${missing[*]}" >&2
  local log; log=$(mktemp)
  apt-get update -qq >"$log" 2>&1 || true
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    # A qemu-utils from elsewhere (backports) is newer than the release's qemu-block-extra: take the
    # release's own pair.
    local release
    release=$(apt-cache policy qemu-block-extra 2>/dev/null | awk '/Candidate/ { print $2 }')
    local pinned=()
    local p
    for p in "${missing[@]}"; do
      case $p in qemu-*) ;; *) pinned+=("$p") ;; esac
    done
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --allow-downgrades \
      "${pinned[@]}" "qemu-utils=$release" "qemu-block-extra=$release" >>"$log" 2>&1; then
      tail -n 20 "$log" >&2
      echo "$(basename "$0"): apt-get could not install: ${missing[*]}" >&2
      exit 1
    fi
  fi
  rm -f "$log"
}

need_cargo() {
  [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
  command -v cargo >/dev/null || {
    echo "$(basename "$0"): no cargo on the PATH; install stable Rust (1.88 or later): https://rustup.rs" >&2
    exit 1
  }
}

BUILD_PACKAGES=(gcc libc6-dev libhwloc-dev)
TEST_PACKAGES=(libiscsi-bin qemu-utils qemu-block-extra strace valgrind python3 tgt util-linux e2fsprogs)
LAB_PACKAGES=(user-mode-linux uml-utilities kmod iproute2 udev busybox-static open-iscsi sg3-utils fio
  xfsprogs dmsetup multipath-tools jq)
