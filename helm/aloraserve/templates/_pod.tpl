{{- /* The pods of Ray: one template for the head, the gateways and every group of engines. */ -}}

{{- define "aloraserve.podKeys" -}}
labels annotations env envFrom nodeSelector affinity tolerations topologySpreadConstraints priorityClassName runtimeClassName schedulerName shmSize tmpSize podSecurityContext containerSecurityContext initContainers sidecars extraVolumes extraVolumeMounts resourceClaims rayStartParams terminationGracePeriodSeconds resources
{{- end -}}

{{- /* The pod options of a role as YAML: root, and layers from the general to the special. */ -}}
{{- define "aloraserve.podOptions" -}}
{{- $merged := deepCopy .root.Values.pods -}}
{{- $keys := splitList " " (include "aloraserve.podKeys" .) -}}
{{- range .layers -}}
{{- range $key, $value := . -}}
{{- if has $key $keys -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $merged $key)) -}}
{{- $_ := set $merged $key (mergeOverwrite (deepCopy (get $merged $key)) (deepCopy $value)) -}}
{{- else -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{- define "aloraserve.env" -}}
{{- $v := .root.Values -}}
- {name: HOME, value: {{ $v.paths.state | quote }}}
- {name: XDG_CACHE_HOME, value: {{ $v.paths.cache | quote }}}
- {name: HF_HOME, value: "{{ $v.paths.cache }}/huggingface"}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- if eq $v.engines.profile "simulated" }}
- {name: RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE, value: "1000"}
{{- end }}
{{- if ne .role "engine" }}
{{- include "aloraserve.redisEnv" .root }}
{{- end }}
{{- if eq .role "gateway" }}
{{- /* For commands in the pod, such as `aloraserve keys`. */}}
- {name: ALORASERVE_KEY_PEPPER_FILE, value: "{{ $v.paths.secrets }}/pepper/pepper"}
- {name: ALORASERVE_NAMESPACE, value: {{ $v.config.namespace | default (include "aloraserve.fullname" .root) | quote }}}
{{- end }}
{{- if eq .role "head" }}
{{- with $v.keys.apiKeys }}{{ if .secretName }}
- name: ALORASERVE_API_KEYS
  valueFrom: {secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretKey | quote }}}}
{{- end }}{{ end }}
{{- with $v.keys.adminKeys }}{{ if .secretName }}
- name: ALORASERVE_ADMIN_KEYS
  valueFrom: {secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretKey | quote }}}}
{{- end }}{{ end }}
{{- end }}
{{- with $v.model.hfToken }}{{ if and .secretName (ne $.role "head") }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .secretName | quote }}, key: {{ .secretKey | quote }}}}
{{- end }}{{ end }}
{{- range $name, $value := $v.otel.env }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- with .pod.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Where the settings find Redis: of all pods the head's and the gateways' alone need to be told. */ -}}
{{- define "aloraserve.redisEnv" -}}
{{- $redis := .Values.redis -}}
{{- if $redis.bundled.enabled }}
- name: BUNDLED_REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "aloraserve.redisSecret" . | quote }}, key: password}}
- name: ALORASERVE_REDIS_URL
  value: redis://default:$(BUNDLED_REDIS_PASSWORD)@{{ include "aloraserve.fullname" . }}-redis:6379/0
{{- else }}
- name: ALORASERVE_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ $redis.external.secretName | quote }}, key: {{ $redis.external.urlKey | quote }}}}
{{- with $redis.external.cellUrlsKey }}
- name: ALORASERVE_CELL_REDIS_URLS
  valueFrom: {secretKeyRef: {name: {{ $redis.external.secretName | quote }}, key: {{ . | quote }}}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "aloraserve.volumes" -}}
{{- $v := .root.Values -}}
- {name: state, emptyDir: {}}
- {name: tmp, emptyDir: {sizeLimit: {{ .pod.tmpSize }}}}
- {name: dshm, emptyDir: {medium: Memory, sizeLimit: {{ .pod.shmSize }}}}
{{- with include "aloraserve.claim" (dict "root" .root "claim" $v.model.cache "name" "cache") }}
- {name: cache, persistentVolumeClaim: {claimName: {{ . | quote }}}}
{{- else }}
- {name: cache, emptyDir: {sizeLimit: {{ $v.model.cache.sizeLimit }}}}
{{- end }}
{{- if ne .role "head" }}
{{- with $v.model.existingClaim }}
- {name: model, persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}}
{{- end }}
{{- with $v.adapters.existingClaim }}
- {name: adapters, persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}}
{{- end }}
{{- with include "aloraserve.claim" (dict "root" .root "claim" $v.adapters.store "name" "adapter-store") }}
- {name: adapter-store, persistentVolumeClaim: {claimName: {{ . | quote }}}}
{{- end }}
{{- end }}
{{- if eq .role "gateway" }}
- name: pepper
  secret:
    secretName: {{ include "aloraserve.pepperSecret" .root | quote }}
    defaultMode: 0440
    items: [{key: {{ $v.keys.pepper.secretKey | quote }}, path: pepper}]
{{- if $v.tls.enabled }}
- name: tls
  secret: {secretName: {{ $v.tls.secretName | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- with and (not $v.redis.bundled.enabled) $v.redis.external.filesSecretName }}
- name: redis-files
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- with .pod.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "aloraserve.mounts" -}}
{{- $v := .root.Values -}}
- {name: state, mountPath: {{ $v.paths.state | quote }}}
- {name: tmp, mountPath: /tmp}
- {name: dshm, mountPath: /dev/shm}
- {name: cache, mountPath: {{ $v.paths.cache | quote }}}
{{- if ne .role "head" }}
{{- if $v.model.existingClaim }}
- {name: model, mountPath: {{ $v.model.mountPath | quote }}, readOnly: true{{ with $v.model.subPath }}, subPath: {{ . | quote }}{{ end }}}
{{- end }}
{{- if $v.adapters.existingClaim }}
- {name: adapters, mountPath: {{ $v.adapters.mountPath | quote }}, readOnly: true{{ with $v.adapters.subPath }}, subPath: {{ . | quote }}{{ end }}}
{{- end }}
{{- if include "aloraserve.claim" (dict "root" .root "claim" $v.adapters.store "name" "adapter-store") }}
- {name: adapter-store, mountPath: /var/lib/aloraserve-adapters}
{{- end }}
{{- end }}
{{- if eq .role "gateway" }}
- {name: pepper, mountPath: "{{ $v.paths.secrets }}/pepper", readOnly: true}
{{- if $v.tls.enabled }}
- {name: tls, mountPath: "{{ $v.paths.secrets }}/tls", readOnly: true}
{{- end }}
{{- end }}
{{- if and (not $v.redis.bundled.enabled) $v.redis.external.filesSecretName }}
- {name: redis-files, mountPath: "{{ $v.paths.secrets }}/redis", readOnly: true}
{{- end }}
{{- with .pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "aloraserve.containerPorts" -}}
{{- $v := .root.Values -}}
{{- if eq .role "head" }}
- {name: gcs-server, containerPort: 6379}
- {name: dashboard, containerPort: 8265}
{{- end }}
{{- if ne .role "engine" }}
- {name: serve, containerPort: {{ $v.ports.http }}}
{{- if $v.grpc.enabled }}
- {name: serve-grpc, containerPort: {{ $v.ports.grpc }}}
{{- end }}
{{- end }}
{{- range $number := until (int .processes) }}
- {name: app-metrics{{ if $number }}-{{ $number }}{{ end }}, containerPort: {{ add (int $v.ports.metrics) $number }}}
{{- end }}
{{- end -}}

{{- /* Whether Ray runs on the node says its agent, without a token. Of a gateway's readiness says the gateway. */ -}}
{{- define "aloraserve.probes" -}}
{{- $v := .root.Values -}}
{{- $alive := eq .role "head" | ternary "{path: /api/gcs_healthz, port: 8265}" "{path: /api/local_raylet_healthz, port: 52365}" -}}
livenessProbe:
  httpGet: {{ $alive }}
  initialDelaySeconds: 30
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 24
readinessProbe:
{{- if eq .role "head" }}
  httpGet: {{ $alive }}
  initialDelaySeconds: 5
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
{{- else if and (eq .role "gateway") $v.tls.enabled $v.tls.clientCa }}
  tcpSocket: {port: serve}
  periodSeconds: 2
  failureThreshold: 2
{{- else if eq .role "gateway" }}
  httpGet: {path: /readyz, port: serve, scheme: {{ $v.tls.enabled | ternary "HTTPS" "HTTP" }}}
  periodSeconds: 2
  timeoutSeconds: 3
  # One late answer of a busy gateway is not enough to take it away from the others.
  failureThreshold: 2
{{- else if include "aloraserve.isIncremental" .root }}
  # Incremental upgrades send calls by KubeRay's own Service, which has every worker that is ready: never an engine.
  tcpSocket: {port: {{ $v.ports.http }}}
  periodSeconds: 10
{{- else }}
  httpGet: {{ $alive }}
  initialDelaySeconds: 5
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 10
{{- end }}
{{- end -}}

{{- /* A pod template: root, role, name of the container, image, pod (its options), processes (with metrics). */ -}}
{{- define "aloraserve.podTemplate" -}}
{{- $v := .root.Values -}}
{{- $isScaling := and (eq .role "head") $v.autoscaling.enabled -}}
metadata:
  labels:
    {{- include "aloraserve.podLabels" (dict "root" .root "component" .role "labels" .pod.labels) | nindent 4 }}
  {{- with merge (dict) .pod.annotations $v.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ $isScaling | ternary (printf "%s-head" (include "aloraserve.fullname" .root)) (include "aloraserve.serviceAccount" .root) | quote }}
  automountServiceAccountToken: {{ $isScaling }}
  enableServiceLinks: false
  restartPolicy: {{ $v.autoscaling.enabled | ternary "Never" "Always" }}
  terminationGracePeriodSeconds: {{ .pod.terminationGracePeriodSeconds | default (include "aloraserve.graceSeconds" .root) | int }}
  {{- range $key := list "nodeSelector" "affinity" "tolerations" "priorityClassName" "runtimeClassName" "schedulerName" "resourceClaims" }}
  {{- with get $.pod $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .pod.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ merge . (dict "labelSelector" (dict "matchLabels" (include "aloraserve.selector" (dict "root" $.root "component" $.role) | fromYaml))) | toYaml | nindent 6 | trim }}
    {{- end }}
  {{- end }}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .pod.podSecurityContext | nindent 4 }}
  {{- with .pod.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ .image | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      env:
        {{- include "aloraserve.env" . | trim | nindent 8 }}
      {{- with .pod.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- include "aloraserve.containerPorts" . | trim | nindent 8 }}
      resources:
        {{- toYaml .pod.resources | nindent 8 }}
      securityContext:
        {{- toYaml .pod.containerSecurityContext | nindent 8 }}
      {{- include "aloraserve.probes" . | nindent 6 }}
      lifecycle:
        preStop:
          exec:
            {{- if eq .role "head" }}
            # Without the head nobody would stop what is on the nodes that end with it, and Ray would end them amid answers.
            command: [python, -m, aloraserve_services.node_drain, --head, --within, {{ include "aloraserve.withinSeconds" .root | quote }}]
            {{- else }}
            # Serve moves what is on this node, and its running answers end, before Ray is told to.
            command: [python, -m, aloraserve_services.node_drain, --within, {{ include "aloraserve.withinSeconds" .root | quote }}]
            {{- end }}
      volumeMounts:
        {{- include "aloraserve.mounts" . | nindent 8 }}
    {{- with .pod.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "aloraserve.volumes" . | nindent 4 }}
{{- end -}}
