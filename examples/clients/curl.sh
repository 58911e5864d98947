#!/usr/bin/env bash
# The service with nothing but curl: one job in the background, and a batch of two lines.
# batchmill serve in another terminal; then: ./curl.sh
set -euo pipefail
url="${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}"
key="Authorization: Bearer ${OPENAI_API_KEY:-unused-on-loopback}"
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# A job in the background. With an Idempotency-Key it is safe to send again, whatever became of the first answer.
job="$(curl -fsS "$url/completions" -H "$key" -H 'Content-Type: application/json' -H "Idempotency-Key: curl-$$" \
  -d '{"model": "demo", "prompt": "json.dumps:", "max_tokens": 40, "temperature": 0, "background": true}' | field id)"
curl -fsS "$url/jobs/$job?wait=60" -H "$key" | field status
curl -fsS "$url/completions/$job" -H "$key"
echo

# A batch.
lines="$(mktemp)"
trap 'rm -f "$lines"' EXIT
cat > "$lines" <<'LINES'
{"custom_id": "one", "method": "POST", "url": "/v1/completions", "body": {"model": "demo", "prompt": "math.sqrt:", "max_tokens": 30}}
{"custom_id": "two", "method": "POST", "url": "/v1/completions", "body": {"model": "demo", "prompt": "os.getcwd:", "max_tokens": 30}}
LINES
file="$(curl -fsS "$url/files" -H "$key" -F purpose=batch -F "file=@$lines;filename=two.jsonl" | field id)"
batch="$(curl -fsS "$url/batches" -H "$key" -H 'Content-Type: application/json' \
  -d "{\"input_file_id\": \"$file\", \"endpoint\": \"/v1/completions\", \"completion_window\": \"1h\"}" | field id)"
output="$(curl -fsS "$url/batches/$batch?wait=60" -H "$key" | field output_file_id)"
curl -fsS "$url/files/$output/content" -H "$key"
