{{/* What the values contradict each other in, said before anything is rendered. */}}
{{- define "kvatlas.validate" -}}
{{- if not .Values.pools }}
{{- fail "pools is empty: name at least one, e.g. --set-json 'pools=[{\"name\":\"qwen\",\"model\":\"Qwen/Qwen3-32B\",\"endpoints\":{\"static\":[{\"address\":\"vllm-0.vllm:8000\",\"events\":\"tcp://vllm-0.vllm:5557\"}]}}]'" }}
{{- end }}
{{- if and (eq .Values.redis.mode "external") (not (or .Values.redis.url .Values.redis.auth.urlKey .Values.redis.cluster .Values.redis.sentinel.name)) }}
{{- fail "redis.mode is external and none is named: set redis.url, redis.cluster, redis.sentinel or redis.auth.urlKey; or redis.mode=bundled for a trial" }}
{{- end }}
{{- if and .Values.redis.auth.urlKey (not .Values.redis.auth.existingSecret) }}
{{- fail "redis.auth.urlKey is set without redis.auth.existingSecret, the Secret that has it" }}
{{- end }}
{{- if and .Values.redis.sentinel.name (not .Values.redis.sentinel.nodes) }}
{{- fail "redis.sentinel.name is set without redis.sentinel.nodes, e.g. [sentinel-0:26379]" }}
{{- end }}
{{- if and .Values.inferencePool.create (not .Values.inferencePool.matchLabels) }}
{{- fail "inferencePool.create is set without inferencePool.matchLabels, the labels of the replicas' pods" }}
{{- end }}
{{- if and .Values.inferencePool.create (eq .Values.inferencePool.apiVersion "v1alpha2") (ne (len .Values.inferencePool.targetPorts) 1) }}
{{- fail "inferencePool.apiVersion v1alpha2 knows one port: inferencePool.targetPorts has several" }}
{{- end }}
{{- if and .Values.gateway.httpRoute.create (not .Values.gateway.httpRoute.parentRefs) }}
{{- fail "gateway.httpRoute.create is set without gateway.httpRoute.parentRefs, e.g. [{name: inference-gateway}]" }}
{{- end }}
{{- if and .Values.gateway.baseline.create (not .Values.gateway.baseline.parentRefs) }}
{{- fail "gateway.baseline.create is set without gateway.baseline.parentRefs, e.g. [{name: inference-gateway, sectionName: baseline}]" }}
{{- end }}
{{- if and .Values.gateway.backendTLS.create (not (and .Values.gateway.backendTLS.hostname .Values.gateway.backendTLS.caConfigMap .Values.gateway.tls.existingSecret)) }}
{{- fail "gateway.backendTLS.create needs gateway.tls.existingSecret, gateway.backendTLS.hostname and gateway.backendTLS.caConfigMap: a self-signed certificate cannot be verified" }}
{{- end }}
{{- end }}

{{/* The configuration file, the same for routers and ingesters. Secrets are not in it: they come as environment variables. */}}
{{- define "kvatlas.config" -}}
{{- $redis := dict "keyPrefix" .Values.redis.keyPrefix }}
{{- if eq .Values.redis.mode "bundled" }}
{{- $_ := set $redis "url" (printf "redis://%s-redis:6379" (include "kvatlas.fullname" .)) }}
{{- else }}
{{- if .Values.redis.url }}{{ $_ := set $redis "url" .Values.redis.url }}{{ end }}
{{- if .Values.redis.cluster }}{{ $_ := set $redis "cluster" .Values.redis.cluster }}{{ end }}
{{- if .Values.redis.sentinel.name }}{{ $_ := set $redis "sentinel" .Values.redis.sentinel }}{{ end }}
{{- if not (kindIs "invalid" .Values.redis.database) }}{{ $_ := set $redis "database" .Values.redis.database }}{{ end }}
{{- with .Values.redis.tls }}
{{- if .enabled }}
{{- $tls := dict "enabled" true }}
{{- if and .existingSecret .caKey }}{{ $_ := set $tls "caFile" (printf "/etc/kvatlas-redis/%s" .caKey) }}{{ end }}
{{- if and .existingSecret .certKey }}{{ $_ := set $tls "certFile" (printf "/etc/kvatlas-redis/%s" .certKey) }}{{ end }}
{{- if and .existingSecret .keyKey }}{{ $_ := set $tls "keyFile" (printf "/etc/kvatlas-redis/%s" .keyKey) }}{{ end }}
{{- if .servername }}{{ $_ := set $tls "servername" .servername }}{{ end }}
{{- $_ := set $redis "tls" $tls }}
{{- end }}
{{- end }}
{{- end }}
{{- $root := . }}
{{- $pools := list }}
{{- range .Values.pools }}
{{- $pool := deepCopy . }}
{{- if and (not (hasKey $pool "endpoints")) (include "kvatlas.followsPool" $root) }}
{{- $pods := dict "inferencePool" (include "kvatlas.poolName" $root) }}
{{- if not (include "kvatlas.bindEnabled" $root) }}
{{- $_ := set $pods "eventsPort" $root.Values.events.port }}
{{- with $root.Values.events.replayPort }}{{ $_ := set $pods "replayPort" . }}{{ end }}
{{- end }}
{{- $_ := set $pool "endpoints" (dict "kubernetes" $pods) }}
{{- end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- $router := dict "listen" (printf "0.0.0.0:%d" (int .Values.router.port)) "admin" "0.0.0.0:9090" "drainTimeoutMs" (mul (int .Values.router.drainSeconds) 1000) }}
{{- if include "kvatlas.gatewayEnabled" . }}
{{- $extProc := dict "listen" (printf "0.0.0.0:%d" (int .Values.gateway.extProcPort)) "health" (printf "0.0.0.0:%d" (int .Values.gateway.healthPort)) }}
{{- $tls := dict "mode" "off" }}
{{- if and .Values.gateway.tls.enabled .Values.gateway.tls.existingSecret }}
{{- $tls = dict "mode" "files" "certFile" "/etc/kvatlas-tls/tls.crt" "keyFile" "/etc/kvatlas-tls/tls.key" }}
{{- else if .Values.gateway.tls.enabled }}
{{- $tls = dict "mode" "self-signed" }}
{{- end }}
{{- $_ := set $extProc "tls" $tls }}
{{- $_ := set $router "extProc" (mergeOverwrite $extProc (deepCopy .Values.gateway.extProc)) }}
{{- end }}
{{- $ingester := dict "admin" "0.0.0.0:9091" }}
{{- if include "kvatlas.bindEnabled" . }}{{ $_ := set $ingester "bind" (printf "tcp://*:%d" (int .Values.events.port)) }}{{ end }}
{{- $config := dict "redis" $redis "pools" $pools "router" $router "ingester" $ingester "log" (dict "level" .Values.logLevel) }}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}

{{/* Redis' credentials as environment variables: (dict "root" $ "secret" name). */}}
{{- define "kvatlas.redisEnv" -}}
{{- $auth := .root.Values.redis.auth }}
{{- $secret := .secret }}
{{- $keys := dict }}
{{- if eq .root.Values.redis.mode "bundled" }}
{{- /* It has one user, and a password; other keys are of the Redis that values name for later. */}}
{{- $keys = dict "KVATLAS_REDIS_PASSWORD" $auth.passwordKey }}
{{- else if $auth.existingSecret }}
{{- $keys = dict "KVATLAS_REDIS_USERNAME" $auth.usernameKey "KVATLAS_REDIS_PASSWORD" $auth.passwordKey "KVATLAS_REDIS_URL" $auth.urlKey "KVATLAS_REDIS_SENTINEL_USERNAME" $auth.sentinelUsernameKey "KVATLAS_REDIS_SENTINEL_PASSWORD" $auth.sentinelPasswordKey }}
{{- end }}
{{- range $name, $key := $keys }}
{{- if $key }}
- name: {{ $name }}
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: {{ $key }} } }
{{- end }}
{{- end }}
{{- end }}
