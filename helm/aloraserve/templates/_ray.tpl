{{- /* Ray's own: the ports that would be any, and where the head keeps its state. */ -}}

{{- define "aloraserve.rayPorts" -}}
node-manager-port: "6380"
object-manager-port: "6381"
runtime-env-agent-port: "6382"
dashboard-agent-grpc-port: "6383"
dashboard-agent-listen-port: "52365"
metrics-export-port: "8080"
min-worker-port: "10002"
max-worker-port: "19999"
{{- end -}}

{{- define "aloraserve.faultTolerance" -}}
{{- $ft := .Values.gcsFaultTolerance -}}
{{- if $ft.enabled -}}
gcsFaultToleranceOptions:
  {{- if .Values.redis.bundled.enabled }}
  redisAddress: redis://{{ include "aloraserve.fullname" . }}-redis:6379
  redisPassword:
    valueFrom: {secretKeyRef: {name: {{ include "aloraserve.redisSecret" . | quote }}, key: password}}
  {{- else }}
  redisAddress: {{ $ft.redisAddress | quote }}
  {{- with $ft.username }}{{ if .secretName }}
  redisUsername:
    valueFrom: {secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretKey | quote }}}}
  {{- end }}{{ end }}
  {{- with $ft.password }}{{ if .secretName }}
  redisPassword:
    valueFrom: {secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretKey | quote }}}}
  {{- end }}{{ end }}
  {{- end }}
{{- end -}}
{{- end -}}
