{{- define "kvatlas.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Room is left for the longest suffix, -ingester-events. */}}
{{- define "kvatlas.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains (include "kvatlas.name" .) .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kvatlas.name" .) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select pods: (dict "root" $ "component" "router"). */}}
{{- define "kvatlas.selector" -}}
app.kubernetes.io/name: {{ include "kvatlas.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "kvatlas.labels" -}}
{{ include "kvatlas.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kvatlas
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata but for the name: (dict "root" $ "component" ... "labels" {} "annotations" {}). */}}
{{- define "kvatlas.metadata" -}}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "kvatlas.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image's reference: (dict "image" {} "tag" "default tag"). */}}
{{- define "kvatlas.image" -}}
{{- $name := .image.repository }}
{{- if .image.registry }}{{ $name = printf "%s/%s" .image.registry $name }}{{ end }}
{{- if .image.digest }}{{ printf "%s@%s" $name .image.digest }}{{ else }}{{ printf "%s:%s" $name (.image.tag | default .tag) }}{{ end }}
{{- end }}

{{- define "kvatlas.gatewayEnabled" -}}
{{- if kindIs "bool" .Values.gateway.enabled }}{{ ternary "true" "" .Values.gateway.enabled }}{{ else if eq .Values.mode "gateway" }}true{{ end }}
{{- end }}

{{- define "kvatlas.bindEnabled" -}}
{{- if or (eq .Values.events.mode "bind") (and (eq .Values.events.mode "auto") (eq .Values.mode "central")) }}true{{ end }}
{{- end }}

{{- define "kvatlas.poolName" -}}
{{- .Values.inferencePool.name | default (include "kvatlas.fullname" .) }}
{{- end }}

{{- define "kvatlas.pickerName" -}}
{{- .Values.gateway.serviceName | default (printf "%s-picker" (include "kvatlas.fullname" .)) }}
{{- end }}

{{- define "kvatlas.eventsName" -}}
{{- .Values.ingester.service.name | default (printf "%s-ingester-events" (include "kvatlas.fullname" .)) }}
{{- end }}

{{- define "kvatlas.redisSecret" -}}
{{- .Values.redis.auth.existingSecret | default (printf "%s-redis" (include "kvatlas.fullname" .)) }}
{{- end }}

{{- define "kvatlas.routerAccount" -}}
{{- ternary (printf "%s-router" (include "kvatlas.fullname" .)) (.Values.serviceAccount.routerName | default "default") .Values.serviceAccount.create }}
{{- end }}

{{- define "kvatlas.ingesterAccount" -}}
{{- ternary (printf "%s-ingester" (include "kvatlas.fullname" .)) (.Values.serviceAccount.ingesterName | default "default") .Values.serviceAccount.create }}
{{- end }}

{{/* "true" when a pool finds its replicas at the API server: what the ingesters need rights for. */}}
{{- define "kvatlas.watches" -}}
{{- $root := . }}
{{- range .Values.pools }}
{{- if or (dig "endpoints" "kubernetes" nil .) (and (not (hasKey . "endpoints")) (include "kvatlas.followsPool" $root)) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "kvatlas.followsPool" -}}
{{- if or .Values.inferencePool.create .Values.inferencePool.name }}true{{ end }}
{{- end }}
