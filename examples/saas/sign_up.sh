#!/usr/bin/env bash
# Signs up a customer: adds the tenant and prints a token for the customer's dashboard, valid for an hour.
#
#   ROOKERY_URL=http://127.0.0.1:7181 ROOKERY_TOKEN=SIGNUP_TOKEN ./sign_up.sh 17
#
# The token needs no admin rights:
#   rookery token create signup --scope TENANTS:MANAGE --scope TOKENS:MINT --scope PIPES:READ:activity \
#     --scope PIPES:READ:top_users
#
# Safe to repeat: a tenant that exists is left as it is.
set -euo pipefail

account=${1:?usage: sign_up.sh ACCOUNT [pooled|tables]}
placement=${2:-pooled}
[[ $account =~ ^(0|[1-9][0-9]*)$ ]] || { echo "an account is a whole number, not '$account'" >&2; exit 2; }

call() {
  curl --silent --show-error --fail-with-body --header "Authorization: Bearer ${ROOKERY_TOKEN:?}" \
    --header "Content-Type: application/json" "$@"
}

call --request POST "${ROOKERY_URL:?}/v0/tenants" \
  --data "{\"id\": \"$account\", \"placement\": \"$placement\"}" >&2
call --request POST "$ROOKERY_URL/v0/tokens" --data "{\"name\": \"dashboard of $account\", \"tenant\": \"$account\",
  \"scopes\": [\"PIPES:READ:activity\", \"PIPES:READ:top_users\"], \"ttl\": 3600}" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])'
