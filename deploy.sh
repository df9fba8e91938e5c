#!/usr/bin/env bash
# Deploys proxy-gpt to Google Cloud with the settings of .env: every function, those that are named, or all in one service.
# What is there already is brought up to date; a second run changes nothing but revisions.
#
#   ./deploy.sh [FUNCTION…] [OPTION…]
#
#   --region REGION   where (default: that of gcloud's configuration, else us-central1)
#   --project ID      in which project (default: that of gcloud's configuration)
#   --all-in-one      one Cloud Run service instead of a function each
#   --dry-run         print every command, and ask and make nothing
#   --delete          delete what a deployment made, once you have said yes; the store stays
#   --yes             say yes beforehand
#   --help            print this
#
# The exit code is 0 when everything that was asked for is well, 2 for wrong usage, and 1 otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Secrets, accounts and the service begin with it, and what is deployed is labelled with it.
APP=proxy-gpt
RUNTIME=nodejs24
FLAGS=(--concurrency=80 --cpu=1 --memory=512Mi --min-instances=0 --max-instances=20 --allow-unauthenticated)
# How an API refuses that is not enabled, or was just now.
NOT_YET='has not been used in project'
APIS=(run cloudbuild artifactregistry secretmanager iam)

project=""
region=""
names=()
all_in_one=""
dry=""
deleting=""
sure=""
scratch=""

main() {
  read_options "$@"
  trap clean_up EXIT
  # Only its owner may read what is written there.
  umask 077
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/$APP.XXXXXX")
  check_tools
  choose_place
  make_planner
  if [[ -n $deleting ]]; then
    delete_deployment
    return
  fi
  check_settings
  enable_apis
  check_region
  check_names
  build
  migrate
  make_secrets
  make_accounts
  allow_secrets
  deploy
  report
}

read_options() {
  local functions=(functions/*/endpoints.ts)
  while [[ $# -gt 0 ]]; do
    case $1 in
      --region=* | --project=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --region | --project)
        [[ -n ${2:-} ]] || misused "$1 needs a value"
        if [[ $1 == --region ]]; then region=$2; else project=$2; fi
        shift 2
        ;;
      --all-in-one) all_in_one=yes && shift ;;
      --dry-run) dry=yes && shift ;;
      --delete) deleting=yes && shift ;;
      --yes) sure=yes && shift ;;
      --help) usage && exit 0 ;;
      -*) misused "unknown option: $1" ;;
      *)
        [[ $1 =~ ^[a-z]+$ && -f functions/$1/endpoints.ts ]] || misused "there is no function $1"
        [[ " ${names[*]:-} " == *" $1 "* ]] || names+=("$1")
        shift
        ;;
    esac
  done
  [[ -z $sure || -n $deleting ]] || misused "--yes belongs to --delete"
  [[ -z $region || $region =~ ^[a-z]+(-[a-z]+)+[0-9]+$ ]] || misused "--region must be the name of a region, such as us-central1"
  [[ -z $project || $project =~ ^[a-z][a-z0-9-]+$ ]] || misused "--project must be the id of a project, such as my-project"
  if [[ -n $all_in_one ]]; then
    [[ ${#names[@]} -eq 0 ]] || misused "--all-in-one takes no functions"
    names=(all)
  elif [[ ${#names[@]} -eq 0 && -z $deleting ]]; then
    functions=("${functions[@]#functions/}")
    names=("${functions[@]%/endpoints.ts}")
  fi
}

usage() { sed -n '2,/^set /{/^#/!d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]##*/}"; }

misused() {
  printf '[deploy] %s (--help lists the options)\n' "$*" >&2
  exit 2
}

say() { printf '[deploy] %s\n' "$*"; }

fail() {
  printf '[deploy] %s\n' "$*" >&2
  exit 1
}

check_tools() {
  local tool missing=""
  for tool in gcloud node npm; do
    # A dry run asks Google nothing.
    [[ $tool == gcloud && -n $dry ]] || command -v "$tool" >/dev/null || missing+=" $tool"
  done
  [[ -z $missing ]] || fail "please install:$missing"
  [[ -x node_modules/.bin/esbuild ]] || fail "the project's packages are not installed: run npm ci first"
}

# The project and the region, of the options or gcloud's own configuration. Nothing is asked over the network.
choose_place() {
  [[ -n $project ]] || project=$(configured core/project)
  [[ -n $project || -z $dry ]] || project=PROJECT_ID
  [[ -n $project ]] || fail "no project is chosen: --project ID, or gcloud config set project ID"
  [[ -n $region ]] || region=$(configured functions/region)
  region=${region:-us-central1}
}

configured() { gcloud config get "$1" 2>/dev/null || true; }

# Divides the settings among the functions as files in $scratch, once each function could start with its own.
check_settings() {
  planner plan "$scratch" "$project" "${names[@]}" && return
  [[ -f .env ]] || printf '%s\n' "There is no .env here: cp .env.example .env, and set what is missing in it." >&2
  fail "nothing was deployed: please mend these settings"
}

# The part that knows settings, made here, because nothing may have been built.
make_planner() {
  node_modules/.bin/esbuild cli/deploy/main.ts --bundle --platform=node --format=esm --log-level=error --outfile="$scratch/deploy.mjs"
}

planner() { node "$scratch/deploy.mjs" "$@"; }

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

# The first question to Google, so also whether there is such a project for us.
enable_apis() {
  local api missing=() about="the project $project cannot be used"
  [[ -n $all_in_one ]] || APIS+=(cloudfunctions)
  [[ -n $dry ]] || google services list --enabled --format="value(config.name)" >"$scratch/apis"
  about=""
  for api in "${APIS[@]}"; do
    has_line "$api.googleapis.com" "$scratch/apis" || missing+=("$api.googleapis.com")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  [[ -n $dry ]] || say "enabling ${missing[*]}"
  make services enable "${missing[@]}"
}

check_region() {
  [[ -z $dry ]] || return 0
  local kind=functions list=(functions regions list --gen2 --format="value(name.basename())")
  [[ -z $all_in_one ]] || kind=run list=(run regions list --format="value(locationId)")
  patiently "$NOT_YET" google "${list[@]}" >"$scratch/regions"
  has_line "$region" "$scratch/regions" || fail "there is no region $region for this project; gcloud $kind regions list names them"
}

# The names of functions are those of paths, so another application may have one of them.
check_names() {
  [[ -z $dry && -z $all_in_one ]] || return 0
  local name app
  google functions list --v2 --regions="$region" --format="value(name.basename(),labels.app)" >"$scratch/functions"
  while IFS=$'\t' read -r name app; do
    [[ " ${names[*]} " != *" $name "* || $app == "$APP" ]] ||
      fail "there is a function $name in $region that is not $APP's (no label app=$APP): choose another project or region"
  done <"$scratch/functions"
}

build() {
  local name
  if [[ -n $dry ]]; then
    print_command npm run build
    return
  fi
  say "building"
  npm run build >"$scratch/build" 2>&1 || { tail -n 20 "$scratch/build" >&2 && fail "npm run build failed"; }
  for name in "${names[@]}"; do
    [[ -f dist/$name/package.json ]] || fail "npm run build made no dist/$name, so nothing was deployed"
  done
}

# Before anything is made: it also proves that the store is there.
migrate() {
  if [[ -n $dry ]]; then
    print_command node dist/local/main.mjs migrate
    return
  fi
  local said
  said=$(node dist/local/main.mjs migrate) || fail "the store could not be migrated, and nothing was deployed"
  say "$said"
}

make_secrets() {
  local settings
  settings=$(cat "$scratch/secrets")
  [[ -n $dry ]] ||
    patiently "$NOT_YET" google secrets list --filter="labels.app=$APP" --format="value(name.basename())" >"$scratch/known"
  # shellcheck disable=SC2086 # The names of settings are words.
  in_parallel make_secret $settings
}

# A version more only where the value is another. Values go from process to process, through pipes.
make_secret() {
  local setting=$1 secret=$APP-$1 version=1 about="the secret $APP-$1"
  local create=(secrets create "$secret" --replication-policy=automatic "--labels=app=$APP" --data-file=-)
  if [[ -n $dry ]]; then
    printf '(the value of %s) | %s\n' "$setting" "$(make "${create[@]}")"
    version=N
  elif has_line "$secret" "$scratch/known"; then
    version=$(newest_if_same "$setting") || exit 1
    if [[ -z $version ]]; then
      version=$(planner value "$setting" | google secrets versions add "$secret" --data-file=- --format="value(name.basename())") || exit 1
      say "the secret $secret has a new version"
    fi
  else
    planner value "$setting" | google "${create[@]}" >/dev/null || exit 1
    say "the secret $secret is made"
  fi
  printf '%s' "$version" >"$scratch/$setting.version"
}

# The number of a secret's newest version if that has the value that is set; nothing if not, or if there is none.
newest_if_same() {
  local said=$scratch/$1.said
  # gcloud would keep what it prints in its log.
  CLOUDSDK_CORE_DISABLE_FILE_LOGGING=1 gcloud secrets versions access latest --secret="$APP-$1" --format=json \
    --project="$project" --quiet 2>"$said" | planner version "$1" ||
    grep -qE 'NOT_FOUND|FAILED_PRECONDITION' "$said" || fail "$about: $(reason "$said")"
}

email() { printf '%s' "$APP-$1@$project.iam.gserviceaccount.com"; }

make_accounts() {
  local name missing=()
  [[ -n $dry ]] || patiently "$NOT_YET" google iam service-accounts list --format="value(email)" >"$scratch/accounts"
  for name in "${names[@]}"; do
    has_line "$(email "$name")" "$scratch/accounts" || missing+=("$name")
  done
  [[ ${#missing[@]} -eq 0 ]] || in_parallel make_account "${missing[@]}"
}

make_account() {
  local about="the account of $1"
  make iam service-accounts create "$APP-$1" --display-name="$APP $1"
  [[ -n $dry ]] || say "the account $APP-$1 is made"
}

# Each account may read the secrets of its function, and no other: also those that it was once allowed.
allow_secrets() {
  local known="" settings
  [[ -n $dry ]] || known=$(sed "s/^$APP-//" "$scratch/known")
  settings=$(printf '%s\n' "$known" "$(cat "$scratch/secrets")" | sort -u | grep .)
  # shellcheck disable=SC2086 # The names of settings are words.
  in_parallel allow_secret $settings
}

allow_secret() {
  local setting=$1 secret=$APP-$1 about="the secret $APP-$1" name policy accounts="" allowed=""
  for name in "${names[@]}"; do
    accounts+="$(email "$name"),"
    if has_line "$setting" "$scratch/$name.secrets"; then
      allowed+="$(email "$name"),"
      [[ -z $dry ]] || make secrets add-iam-policy-binding "$secret" "--member=serviceAccount:$(email "$name")" \
        --role=roles/secretmanager.secretAccessor
    fi
  done
  [[ -z $dry ]] || return 0
  policy=$(google secrets get-iam-policy "$secret" --format=json) || exit 1
  planner policy "$accounts" "$allowed" <<<"$policy" >"$scratch/$setting.policy"
  [[ ! -s $scratch/$setting.policy ]] ||
    patiently 'does not exist' google secrets set-iam-policy "$secret" "$scratch/$setting.policy" --format=none
}

# Every function at once. One that fails stops no other, and keeps the revision that it has.
deploy() {
  in_parallel deploy_one "${names[@]}" || true
}

deploy_one() {
  local name=$1 started=$SECONDS setting secrets="" about="" command
  while read -r setting; do
    secrets+=",$setting=$APP-$setting:$(cat "$scratch/$setting.version")"
  done <"$scratch/$name.secrets"
  if [[ -n $all_in_one ]]; then
    command=(run deploy "$APP" --source=dist/all --timeout=3600 --session-affinity --format="value(status.url,status.url)")
  else
    command=(functions deploy "$name" --gen2 "--runtime=$RUNTIME" "--source=dist/$name" "--entry-point=$name" --trigger-http
      --timeout=3600s --format="value(url,serviceConfig.uri)")
  fi
  command+=("--region=$region" "${FLAGS[@]}" "--service-account=$(email "$name")" "--set-secrets=${secrets#,}"
    "--env-vars-file=$scratch/$name.env" "--update-labels=app=$APP")
  if [[ -n $dry ]]; then
    make "${command[@]}"
    return
  fi
  say "$name: deploying"
  about="$name: failed"
  google "${command[@]}" >"$scratch/$name.addresses" || exit 1
  mv "$scratch/$name.addresses" "$scratch/$name.deployed"
  say "$name: deployed in $((SECONDS - started)) s"
}

report() {
  [[ -z $dry ]] || return 0
  local name url uri failed="" base="https://$region-$project.cloudfunctions.net" unwell=""
  for name in "${names[@]}"; do
    if [[ -f $scratch/$name.deployed ]]; then
      IFS=$'\t' read -r url uri <"$scratch/$name.deployed"
      printf '%s\t%s\t%s\n' "$name" "${url:-$base/$name}" "$uri"
      [[ -z $all_in_one ]] || base=$url
    else
      failed+=" $name"
    fi
  done >"$scratch/deployed"
  if [[ -s $scratch/deployed ]]; then
    say "asking for the health of what was deployed"
    planner health <"$scratch/deployed" || unwell=yes
    say "the base address is $base; WebSockets connect to a function's own"
    say "the first admin: npm run admin -- create NAME --admin (it uses the same DB_ADDRESS)"
  fi
  [[ -z $failed ]] || fail "not deployed:$failed. What failed serves its old revision, if it had one; mend it, and run this again"
  [[ -z $unwell ]] || fail "deployed, and not everything is well: the log of a function says why (gcloud functions logs read NAME)"
}

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

clean_up() {
  [[ -z $scratch ]] || rm -rf "$scratch"
}

main "$@"
