#!/bin/sh
# check_metrics.sh URL - the metrics of a running daemon are what Prometheus wants.
#
# promtool objects to the colon in vLLM's names and to two of its words; those are vLLM's to choose.
# Whatever else it says is an error, and so is a missing family that dashboards read.
set -eu
url=${1:?usage: check_metrics.sh http://127.0.0.1:8080/metrics}
text=$(mktemp)
trap 'rm -f "$text"' EXIT
curl -fsS "$url" > "$text"
bad=0
if said=$(promtool check metrics < "$text" 2>&1); then :; fi
said=$(printf '%s\n' "$said" | grep -v '^vllm:' | grep -v '^$' || true)
if [ -n "$said" ]; then
    printf 'promtool: %s\n' "$said" >&2
    bad=1
fi
for name in vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc \
            vllm:cache_config_info vllm:prompt_tokens_total vllm:generation_tokens_total \
            vllm:request_success_total vllm:num_preemptions_total \
            vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total \
            vllm:time_to_first_token_seconds_bucket vllm:inter_token_latency_seconds_bucket \
            vllm:e2e_request_latency_seconds_sum vllm:request_queue_time_seconds_sum \
            vllm:request_prefill_time_seconds_sum vllm:request_decode_time_seconds_sum \
            vllm:request_prompt_tokens_bucket vllm:request_generation_tokens_bucket \
            vllm:request_max_num_generation_tokens_sum vllm:iteration_tokens_total_count \
            inferd_engine_up inferd_engine_restarts_total inferd_http_requests_total \
            process_resident_memory_bytes process_open_fds inferd_build_info; do
    if ! grep -q "^${name}[{ ]" "$text"; then
        echo "missing: $name" >&2
        bad=1
    fi
done
exit $bad
