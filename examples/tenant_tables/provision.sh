#!/usr/bin/env bash
# Creates a datasource for one tenant's rows, an endpoint over it, and a token that can read only these two.
#
#   ROOKERY_URL=http://127.0.0.1:7181 ROOKERY_TOKEN=ADMIN_TOKEN ./provision.sh 7
#
# Runs in a checkout of this project, which may be temporary: deployed resources are stored on the server.
# Safe to repeat, in the same checkout or a new one: it changes nothing and prints the same token.
# Prints only the token to standard output, and progress to standard error.
set -euo pipefail

tenant=${1:?usage: provision.sh TENANT}
[[ $tenant =~ ^(0|[1-9][0-9]*)$ ]] || { echo "a tenant is a whole number, not '$tenant'" >&2; exit 2; }
cd "${PROJECT:-$(dirname "${BASH_SOURCE[0]}")}"

pipe=tenant_${tenant}_pipe
target=tenant_${tenant}_ds
endpoint=tenant_${tenant}_usage_current_month

rookery auth --url "${ROOKERY_URL:?}" --token "${ROOKERY_TOKEN:?}" >&2
rookery init >&2

# A pipe with this tenant's rows, and the datasource that it fills. Files may be in subfolders.
rookery pipe generate "$pipe" "SELECT timestamp, event, units FROM events WHERE tenant_id = $tenant" >&2
mkdir -p pipes/tenants datasources/tenants
if [[ -f pipes/$pipe.yaml ]]; then mv "pipes/$pipe.yaml" pipes/tenants/; fi
echo "1\n" | rookery materialize "$pipe" "$target" >&2
if [[ -f datasources/$target.yaml ]]; then mv "datasources/$target.yaml" datasources/tenants/; fi

# An endpoint over the tenant's datasource.
sed "s/TENANT/$tenant/g" templates/usage_current_month.yaml > "endpoints/$endpoint.yaml"
rookery push "endpoints/$endpoint.yaml" --push-deps >&2

# A token for exactly these two resources, and a first call with it.
token=$(rookery token create "tenant_${tenant}_token" \
  --scope "PIPES:READ:$endpoint" --scope "DATASOURCES:READ:$target")
curl --silent --show-error --fail --header "Authorization: Bearer $token" \
  "$ROOKERY_URL/v0/pipes/$endpoint.json" >&2
echo "$token"
