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

source cli/deploy/gcloud.sh
source cli/deploy/make.sh
source cli/deploy/delete.sh

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

clean_up() {
  [[ -z $scratch ]] || rm -rf "$scratch"
}

main "$@"
