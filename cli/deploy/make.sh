# What a deployment is made of: secrets, accounts with access to them, and functions or one service. Of deploy.sh.

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
