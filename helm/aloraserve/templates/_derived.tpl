{{- /* What follows from values: numbers and settings. */ -}}

{{- define "aloraserve.isTrue" -}}{{ if . }}true{{ end }}{{- end -}}

{{- /* Seconds that a gateway's or an engine's running answers have, as the platform works them out. */ -}}
{{- define "aloraserve.drainSeconds" -}}
{{- $config := .Values.config -}}
{{- $drain := $config.drain_timeout_s | default $config.call_timeout_s | default 1800 -}}
{{- if hasKey $config "drain_timeout_s" }}{{ $drain = $config.drain_timeout_s }}{{ end -}}
{{- $delay := hasKey $config "drain_delay_s" | ternary $config.drain_delay_s 8 -}}
{{- add (ceil (float64 $drain)) (ceil (float64 $delay)) -}}
{{- end -}}

{{- /* What preStop has: for replacements elsewhere, and then for running answers. */ -}}
{{- define "aloraserve.withinSeconds" -}}
{{- add (include "aloraserve.drainSeconds" . | int) (int .Values.rollout.replacementSeconds) 10 -}}
{{- end -}}

{{- define "aloraserve.graceSeconds" -}}
{{- add (include "aloraserve.withinSeconds" . | int) 60 -}}
{{- end -}}

{{- /* Engines of a pod of a group: root and group. */ -}}
{{- define "aloraserve.enginesPerPod" -}}
{{- if eq .root.Values.engines.profile "gpu" -}}
{{- div (int .group.gpus) (int .root.Values.engines.tensorParallelSize) -}}
{{- else -}}
{{- int .group.enginesPerPod -}}
{{- end -}}
{{- end -}}

{{- /* Pods of a group with autoscaling, at most: root and group. */ -}}
{{- define "aloraserve.maxPods" -}}
{{- if not .root.Values.autoscaling.enabled -}}
{{- int .group.replicas -}}
{{- else if kindIs "invalid" .group.maxReplicas -}}
{{- $each := include "aloraserve.enginesPerPod" . | int | max 1 -}}
{{- div (add (int .root.Values.autoscaling.maxReplicas) $each -1) $each -}}
{{- else -}}
{{- int .group.maxReplicas -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.minPods" -}}
{{- if .root.Values.autoscaling.enabled }}{{ .group.minReplicas | default 0 | int }}{{ else }}{{ int .group.replicas }}{{ end -}}
{{- end -}}

{{- /* Gateways that there are at least. */ -}}
{{- define "aloraserve.leastGateways" -}}
{{- .Values.autoscaling.enabled | ternary .Values.autoscaling.minGateways .Values.gateway.replicas -}}
{{- end -}}

{{- /* How many gateways there are to be, in words. */ -}}
{{- define "aloraserve.gateways" -}}
{{- $least := include "aloraserve.leastGateways" . -}}
{{- if .Values.autoscaling.enabled -}}
{{ $least }} to {{ .Values.autoscaling.maxGateways }} gateways
{{- else -}}
{{ $least }} {{ eq $least "1" | ternary "gateway" "gateways" }}
{{- end -}}
{{- end -}}

{{- /* A group with every key that it may leave out. */ -}}
{{- define "aloraserve.group" -}}
{{- mergeOverwrite (dict "replicas" 1 "minReplicas" nil "maxReplicas" nil "gpus" 0 "enginesPerPod" 1) . | toYaml -}}
{{- end -}}

{{- /* Engines that the groups have room for: root and whether at most (with autoscaling). */ -}}
{{- define "aloraserve.engineRoom" -}}
{{- $room := 0 -}}
{{- range .root.Values.engines.groups -}}
{{- $of := dict "root" $.root "group" (include "aloraserve.group" . | fromYaml) -}}
{{- $room = add $room (mul (include "aloraserve.maxPods" $of | int) (include "aloraserve.enginesPerPod" $of | int)) -}}
{{- end -}}
{{- $room -}}
{{- end -}}

{{- define "aloraserve.upgradeType" -}}
{{- $inferred := empty .Values.upgradeStrategy.gatewayClassName | ternary "NewCluster" "NewClusterWithIncrementalUpgrade" -}}
{{- .Values.upgradeStrategy.type | default $inferred -}}
{{- end -}}

{{- define "aloraserve.isIncremental" -}}
{{- if eq (include "aloraserve.upgradeType" .) "NewClusterWithIncrementalUpgrade" }}true{{ end -}}
{{- end -}}

{{- /* A model that comes with the package, or from a volume, needs no hub. */ -}}
{{- define "aloraserve.isOffline" -}}
{{- if or (eq .Values.model.name "smollm2") (hasPrefix "/" .Values.model.name) }}true{{ end -}}
{{- end -}}

{{- /* Settings that config may decide otherwise. Services notice within four seconds that a gateway is not ready. */ -}}
{{- define "aloraserve.defaultSettings" -}}
drain_delay_s: 8
namespace: {{ include "aloraserve.fullname" . | quote }}
{{- end -}}

{{- /* The settings that values other than config decide, by key. */ -}}
{{- define "aloraserve.ownSettings" -}}
{{- $v := .Values -}}
host: 0.0.0.0
port: {{ $v.ports.http }}
{{- if $v.grpc.enabled }}
grpc_port: {{ $v.ports.grpc }}
{{- end }}
metrics_host: 0.0.0.0
metrics_port: {{ $v.ports.metrics }}
channel_host: 0.0.0.0
channel_port: {{ $v.ports.channel }}
{{- if $v.tls.enabled }}
tls_certificate: {{ $v.paths.secrets }}/tls/tls.crt
tls_key: {{ $v.paths.secrets }}/tls/tls.key
{{- if $v.tls.clientCa }}
tls_client_ca: {{ $v.paths.secrets }}/tls/ca.crt
{{- end }}
{{- end }}
key_pepper_file: {{ $v.paths.secrets }}/pepper/pepper
state_dir: {{ $v.paths.state | quote }}
model: {{ $v.model.name | quote }}
{{- with $v.model.servedName }}
served_name: {{ . | quote }}
{{- end }}
dtype: {{ $v.model.dtype | default (eq $v.engines.profile "gpu" | ternary "bfloat16" "float32") }}
engine: {{ eq $v.engines.profile "simulated" | ternary "simulated" "vllm" }}
{{- if ne $v.engines.profile "simulated" }}
device: {{ $v.engines.profile }}
{{- end }}
{{- with include "aloraserve.engineArgs" . }}
engine_args: {{ . }}
{{- end }}
{{- if $v.adapters.existingClaim }}
adapters_dir: {{ $v.adapters.mountPath | quote }}
{{- end }}
{{- if include "aloraserve.claim" (dict "root" . "claim" $v.adapters.store "name" "adapter-store") }}
adapter_store: /var/lib/aloraserve-adapters
{{- end }}
{{- with $v.otel.endpoint }}
otlp_endpoint: {{ . | quote }}
{{- end }}
max_surge_percent: {{ $v.rollout.engineSurgePercent }}
{{- if $v.autoscaling.enabled }}
autoscaling: true
min_replicas: {{ $v.autoscaling.minReplicas }}
max_replicas: {{ $v.autoscaling.maxReplicas }}
min_gateways: {{ $v.autoscaling.minGateways }}
max_gateways: {{ $v.autoscaling.maxGateways }}
ttft_objective_s: {{ $v.autoscaling.ttftObjectiveSeconds }}
tpot_objective_ms: {{ $v.autoscaling.tpotObjectiveMs }}
{{- else }}
replicas: {{ include "aloraserve.engineRoom" (dict "root" .) }}
gateways: {{ $v.gateway.replicas }}
{{- end }}
{{- end -}}

{{- define "aloraserve.engineArgs" -}}
{{- $parallel := int .Values.engines.tensorParallelSize -}}
{{- $own := gt $parallel 1 | ternary (dict "tensor_parallel_size" $parallel) dict -}}
{{- with merge $own .Values.engines.args }}{{ toJson . }}{{ end -}}
{{- end -}}
