# What takes a deployment away again. Of deploy.sh.

# Lists what is there of a deployment, asks, and deletes it. Secrets and accounts that something else of it uses are kept.
delete_deployment() {
  find_doomed
  if [[ -z $dry ]]; then
    [[ -s $scratch/doomed ]] || fail "there is nothing of $APP to delete in $region of $project"
    say "this is deleted in $project:"
    sed 's/^/  /' "$scratch/doomed"
    say "the store stays as it is, with everyone's chats in it; so does what Upstash holds for an hour"
    [[ ! -s $scratch/remaining ]] || say "the secrets stay, because something else uses them: $(tr '\n' ' ' <"$scratch/remaining")"
    make_sure
  fi
  local what
  for what in function service account secret; do
    # shellcheck disable=SC2046 # Names are words.
    in_parallel "delete_$what" $(sed -n "s/^$what //p" "$scratch/doomed") || fail "not everything was deleted; run it again"
  done
  [[ -n $dry ]] || say "deleted"
}

# Writes what will be deleted to doomed, and what else there is of the application to remaining.
find_doomed() {
  local place name app kind
  : >"$scratch/remaining"
  if [[ -n $dry ]]; then
    local doomed=(functions/*/endpoints.ts all) secrets
    secrets=$(planner secrets)
    [[ ${#names[@]} -eq 0 ]] || doomed=("${names[@]}") secrets=""
    for name in "${doomed[@]}"; do
      name=${name#functions/}
      name=${name%/*}
      if [[ $name == all ]]; then printf 'service %s\n' "$APP"; else printf 'function %s\n' "$name"; fi
      printf 'account %s\n' "$(email "$name")"
    done >"$scratch/doomed"
    for name in $secrets; do printf 'secret %s\n' "$APP-$name"; done >>"$scratch/doomed"
    return
  fi
  in_parallel find_every function service account secret
  sed $'s/^/function\t/' "$scratch/function" >"$scratch/there"
  sed $'s/^/service\t/' "$scratch/service" >>"$scratch/there"
  while IFS=$'\t' read -r kind place name app; do
    [[ $app == "$APP" ]] || continue
    if [[ $place == "$region" ]] && is_chosen "$kind" "$name"; then
      printf '%s %s\n' "$kind" "$name" >>"$scratch/doomed"
    else
      printf '%s %s in %s\n' "$kind" "$name" "$place" >>"$scratch/remaining"
    fi
  done <"$scratch/there"
  touch "$scratch/doomed"
  doom_accounts
  [[ -s $scratch/remaining || ${#names[@]} -gt 0 ]] || sed 's/^/secret /' "$scratch/secret" >>"$scratch/doomed"
}

find_every() {
  local found
  case $1 in
    function) found=(functions list --v2 --format="value(name.segment(3),name.basename(),labels.app)") ;;
    service)
      found=(run services list --filter="metadata.name=$APP"
        --format="value(metadata.labels['cloud.googleapis.com/location'],metadata.name,metadata.labels.app)")
      ;;
    account) found=(iam service-accounts list --format="value(email)") ;;
    secret) found=(secrets list --filter="labels.app=$APP" --format="value(name.basename())") ;;
  esac
  (google "${found[@]}") >"$scratch/$1" 2>"$scratch/$1.refused" && return
  # Where the API is not enabled there is none.
  grep -q -- "$NOT_YET" "$scratch/$1.refused" && return
  cat "$scratch/$1.refused" >&2
  return 1
}

is_chosen() {
  [[ ${#names[@]} -gt 0 ]] || return 0
  if [[ $1 == service ]]; then [[ -n $all_in_one ]]; else [[ " ${names[*]} " == *" $2 "* ]]; fi
}

# The accounts of what is deleted, and without names also those that a deployment left which failed.
doom_accounts() {
  local account name kind
  while read -r account; do
    name=${account%%@*}
    [[ $name == "$APP"-* ]] || continue
    name=${name#"$APP"-}
    [[ ${#names[@]} -eq 0 || " ${names[*]} " == *" $name "* ]] || continue
    if [[ $name == all ]]; then kind="service $APP"; else kind="function $name"; fi
    grep -q "^$kind in " "$scratch/remaining" || printf 'account %s\n' "$account" >>"$scratch/doomed"
  done <"$scratch/account"
}

make_sure() {
  [[ -z $sure ]] || return 0
  [[ -t 0 ]] || fail "nothing was deleted: there is no terminal to ask on; --yes says so beforehand"
  local answer=""
  read -r -p "[deploy] type yes to delete it: " answer || true
  [[ $answer == yes ]] || fail "nothing was deleted"
}

delete_function() { make functions delete "$1" --gen2 --region="$region"; }
delete_service() { make run services delete "$1" --region="$region"; }
delete_account() { make iam service-accounts delete "$1"; }
delete_secret() { make secrets delete "$1"; }
