#!/usr/bin/env bash
# May these keys be used?
#
#   may-use.sh SOCKET [KEY_ID...]        without key ids: one a line from standard input
#
# Prints for each "yes", "no" and why, or "cannot tell" and why. Exit status: 0 all may be
# used, 1 one may not, 2 one cannot be told. Needs curl and jq.
set -uo pipefail

may_use() {
	local socket=$1 id=$2 path answer
	path=$(printf %s "$id" | jq -sRr @uri)
	# -q: no .curlrc. --path-as-is: "/.." is sent as it is. Nothing is redirected without -L.
	if ! answer=$(curl -q -sS --max-time 2 --noproxy '*' --path-as-is --globoff --unix-socket "$socket" \
		--write-out '\n%{http_code}' "http://localhost/v1/keys/$path" 2>&1); then
		echo "cannot tell: ${answer//[[:cntrl:]]/ }"
		return
	fi
	jq -rs --arg id "$id" --arg status "${answer##*$'\n'}" '
		if length != 1 then "cannot tell: not one answer" else .[0] end
		| if type == "string" then .
		elif .key_id == $id and $status == "200" and .valid == true then "yes"
		elif .key_id == $id and .valid == false and ($status | IN("403", "404", "410")) then "no \(.code)"
		elif $status == "400" and .code == "bad_key_id" then "no bad_key_id"
		else "cannot tell: status \($status)" end' <<<"${answer%$'\n'*}" 2>/dev/null || echo "cannot tell: not an answer"
}

socket=${1:?usage: may-use.sh SOCKET [KEY_ID...]}
shift
worst=0
tell() {
	local answer
	answer=$(may_use "$socket" "$1")
	printf '%s\n' "$answer"
	case $answer in
	yes) ;;
	no\ *) worst=$((worst > 1 ? worst : 1)) ;;
	*) worst=2 ;;
	esac
}
if [ $# -gt 0 ]; then
	for id in "$@"; do tell "$id"; done
else
	while IFS= read -r id; do tell "$id"; done
fi
exit "$worst"
