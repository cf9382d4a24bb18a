# For bash scripts. sources FOLDER lists the files of a checkout but for those of git, of npm and of builds. Each has a
# zero byte at its end.
sources() {
  local not='\.git|node_modules|dist|build|bin|_artifacts'
  find "$1" -mindepth 1 -regextype posix-extended \( -regex ".*/($not)" -o -path "$1/release" \) -prune \
    -o -type f -print0
}
