{{/* The name of every object. */}}
{{- define "proxy.name" -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that select the pods of a release. */}}
{{- define "proxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "proxy.labels" -}}
{{ include "proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The port that the container listens on. */}}
{{- define "proxy.port" -}}
{{- dig "server" "port" 8080 .Values.config | int -}}
{{- end }}

{{/* A probe of /healthz. */}}
{{- define "proxy.healthz" -}}
httpGet:
  path: /healthz
  port: http
  {{- if dig "server" "tls_cert_file" "" .Values.config }}
  scheme: HTTPS
  {{- end }}
{{- end }}
