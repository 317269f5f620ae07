#!/bin/sh
# The whole journey by curl and a chat client of forty lines, against a `molt dev` that runs: sign-up, three answers, the
# plan, a message with a tool call, a second conversation that remembers, and what it cost.
# Never: anything but the front door.
#
#   e2e/curl-journey.sh [http://127.0.0.1:8787]
set -eu
base="${1:-http://127.0.0.1:8787}"
here="$(cd "$(dirname "$0")" && pwd)"

# field <path> reads one value out of the JSON on its input: field items.0.id
field() { node -e 'const path = process.argv[1].split("."); let text = ""; process.stdin.on("data", (d) => (text += d)).on("end", () => console.log(path.reduce((value, name) => value?.[name], JSON.parse(text)) ?? ""))' "$1"; }
api() { method="$1"; path="$2"; shift 2; curl --silent --show-error --fail-with-body -X "$method" "$base$path" -H "authorization: Bearer $token" -H 'content-type: application/json' "$@"; }
say() { node "$here/chat.mjs" "$base" "$bot" "$(api POST "/api/bots/$bot/chat-ticket" | field ticket)" "$1" "$2"; }

echo "1. An account"
email="ada-$(date +%s)@example.com"
token="$(curl --silent --show-error --fail-with-body "$base/api/auth/signup" -H 'content-type: application/json' \
  -d "{\"email\": \"$email\", \"password\": \"a lobster in the garden\", \"name\": \"Ada\"}" | field token)"

echo "2. Three answers"
bot="$(api POST /api/bots -d '{"bot_name": "Pip", "vertical": "researcher", "timezone": "Europe/Lisbon"}' | field id)"

echo "3. The plan (built-in payments charge nobody)"
url="$(api POST /api/billing/checkout -d "{\"bot_id\": \"$bot\"}" | field url)"
curl --silent --show-error --fail-with-body --output /dev/null -X POST "$url" -H "authorization: Bearer $token"

echo "4. It starts"
last=""
while :; do
  seen="$(api GET "/api/bots/$bot")"
  status="$(printf "%s" "$seen" | field status)"
  phase="$(printf "%s" "$seen" | field phase)"
  if [ "$status $phase" != "$last" ]; then echo "   $status, $phase"; last="$status $phase"; fi
  case "$status" in
    running) break ;;
    error) printf "%s" "$seen" | field reason >&2; exit 1 ;;
  esac
  sleep 0.2
done

echo "5. A message with a tool call"
say main "Keep in mind that the spare key hangs behind the blue clock."

echo "6. Another conversation"
conversation="$(api POST "/api/bots/$bot/conversations" -d '{}' | field id)"
answer="$(say "$conversation" "Where does the spare key hang?")"
printf "%s\n" "$answer"
printf "%s" "$answer" | grep -q "blue clock" || { echo "it did not remember" >&2; exit 1; }

echo "7. What it cost"
api GET /api/billing/usage
echo
