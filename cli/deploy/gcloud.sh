# What deploy.sh says, and how it asks Google and has it make things. It sets project, scratch and dry.

say() { printf '[deploy] %s\n' "$*"; }

fail() {
  printf '[deploy] %s\n' "$*" >&2
  exit 1
}

# Asks Google. What it says for standard output is passed on; its refusal ends the script, or the subshell, with one line.
google() {
  local said
  said=$(mktemp "$scratch/said.XXXXXX")
  gcloud "$@" --project="$project" --quiet 2>"$said" || fail "${about:+$about: }$(reason "$said")"
}

# The first error that gcloud told, without the name of its command.
reason() {
  local line
  line=$(grep -m 1 '^ERROR: ' "$1" || tail -n 1 "$1")
  line=${line#ERROR: }
  [[ $line != \(gcloud.*\)\ * ]] || line=${line#*\) }
  printf '%s' "${line:-gcloud failed and did not say why}"
}

# patiently PATTERN COMMAND…: again, while its refusal has the pattern. What was just made is not known everywhere at once.
patiently() {
  local pattern=$1 pause refused
  shift
  refused=$(mktemp "$scratch/refused.XXXXXX")
  for pause in 2 4 8 16 0; do
    ("$@") 2>"$refused" && return
    grep -q -- "$pattern" "$refused" || break
    sleep $pause
  done
  cat "$refused" >&2
  return 1
}

# Has Google make something, or in a dry run prints the command.
make() {
  if [[ -n $dry ]]; then print_command gcloud "$@" --project="$project" --quiet; else google "$@" >/dev/null; fi
}

print_command() {
  local text
  text=$(printf '%q ' "$@")
  printf '%s\n' "${text% }"
}

# Runs a command for each word at once, and fails if it did for any.
in_parallel() {
  local command=$1 word pid pids="" status=0
  shift
  for word in "$@"; do
    "$command" "$word" &
    pids+=" $!"
    # What is printed keeps its order.
    [[ -z $dry ]] || wait $!
  done
  for pid in $pids; do wait "$pid" || status=1; done
  return $status
}

has_line() { [[ -f $2 ]] && grep -qxF -- "$1" "$2"; }
