{{- /* What no schema can say: values that do not fit each other. Each message names the value and what is accepted. */ -}}

{{- define "aloraserve.check" -}}
{{- include "aloraserve.checkNames" . -}}
{{- include "aloraserve.checkConfig" . -}}
{{- include "aloraserve.checkPorts" . -}}
{{- include "aloraserve.checkRedis" . -}}
{{- include "aloraserve.checkEngines" . -}}
{{- include "aloraserve.checkScaling" . -}}
{{- include "aloraserve.checkUpgrade" . -}}
{{- include "aloraserve.checkEdges" . -}}
{{- include "aloraserve.checkGrace" . -}}
{{- include "aloraserve.checkSecrets" . -}}
{{- end -}}

{{- define "aloraserve.checkNames" -}}
{{- $name := include "aloraserve.fullname" . -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "fullnameOverride: the name %q has %d characters; at most 40 are accepted, since KubeRay adds its own to it" $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "fullnameOverride: the name %q is not a DNS label that begins with a letter" $name) -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkConfig" -}}
{{- $owners := dict
  "host" "ports.http" "port" "ports.http" "grpc_port" "ports.grpc and grpc.enabled" "metrics_host" "ports.metrics" "metrics_port" "ports.metrics"
  "channel_host" "ports.channel" "channel_port" "ports.channel" "tls_certificate" "tls" "tls_key" "tls" "tls_client_ca" "tls.clientCa"
  "key_pepper_file" "keys.pepper" "api_keys" "keys.apiKeys" "admin_keys" "keys.adminKeys" "redis_url" "redis" "cell_redis_urls" "redis.external.cellUrlsKey"
  "state_dir" "paths.state" "model" "model.name" "served_name" "model.servedName" "dtype" "model.dtype" "engine" "engines.profile" "device" "engines.profile"
  "engine_args" "engines.args" "adapters_dir" "adapters.existingClaim" "adapter_store" "adapters.store" "otlp_endpoint" "otel.endpoint"
  "max_surge_percent" "rollout.engineSurgePercent" "replicas" "engines.groups" "gateways" "gateway.replicas" "autoscaling" "autoscaling.enabled" "min_replicas" "autoscaling.minReplicas"
  "max_replicas" "autoscaling.maxReplicas" "min_gateways" "autoscaling.minGateways" "max_gateways" "autoscaling.maxGateways"
  "ttft_objective_s" "autoscaling.ttftObjectiveSeconds" -}}
{{- range $key, $_ := .Values.config -}}
{{- if hasKey $owners $key -}}
{{- fail (printf "config.%s is set by another value: %s" $key (get $owners $key)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (hasKey .Values.config "tpot_objective_ms") -}}
{{- fail "config.tpot_objective_ms is set by another value: autoscaling.tpotObjectiveMs" -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkPorts" -}}
{{- $p := .Values.ports -}}
{{- $taken := list
  (dict "name" "ports.http" "from" (int $p.http) "to" (int $p.http))
  (dict "name" "ports.metrics" "from" (int $p.metrics) "to" (add (int $p.metrics) 15))
  (dict "name" "ports.channel" "from" (int $p.channel) "to" (add (int $p.channel) 99)) -}}
{{- if .Values.grpc.enabled -}}
{{- $taken = append $taken (dict "name" "ports.grpc" "from" (int $p.grpc) "to" (int $p.grpc)) -}}
{{- end -}}
{{- range list (list 6379 6383) (list 8080 8080) (list 8265 8265) (list 10001 19999) -}}
{{- $taken = append $taken (dict "name" "Ray" "from" (first .) "to" (last .)) -}}
{{- end -}}
{{- /* Linux gives these to whoever asks for any port: Serve's replicas among them. Ray's agent has 52365. */ -}}
{{- $taken = append $taken (dict "name" "the system's choice" "from" 32768 "to" 60999) -}}
{{- range $number, $one := $taken -}}
{{- if gt (int $one.to) 65535 -}}
{{- fail (printf "%s is %d: the ports up to %d are beyond 65535" $one.name (int $one.from) (int $one.to)) -}}
{{- end -}}
{{- range $other := slice $taken 0 $number -}}
{{- if and (le (int $one.from) (int $other.to)) (le (int $other.from) (int $one.to)) -}}
{{- $isOurs := hasPrefix "ports." $one.name -}}
{{- $mine := $isOurs | ternary $one $other -}}
{{- $theirs := $isOurs | ternary $other $one -}}
{{- fail (printf "%s: its ports %d to %d meet those of %s, %d to %d" $mine.name (int $mine.from) (int $mine.to) $theirs.name (int $theirs.from) (int $theirs.to)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkRedis" -}}
{{- $redis := .Values.redis -}}
{{- if and $redis.bundled.enabled $redis.external.enabled -}}
{{- fail "redis.bundled.enabled and redis.external.enabled are both true: one of the two is accepted" -}}
{{- end -}}
{{- if not (or $redis.bundled.enabled $redis.external.enabled) -}}
{{- fail "redis.bundled.enabled and redis.external.enabled are both false: gateways and engines need a Redis" -}}
{{- end -}}
{{- if and $redis.external.enabled (not $redis.external.secretName) -}}
{{- fail "redis.external.secretName is empty: the name of the Secret with the Redis' URL is needed" -}}
{{- end -}}
{{- if and $redis.external.enabled .Values.gcsFaultTolerance.enabled (not .Values.gcsFaultTolerance.redisAddress) -}}
{{- fail "gcsFaultTolerance.redisAddress is empty: with an external Redis its address is needed, or gcsFaultTolerance.enabled=false" -}}
{{- end -}}
{{- if and $redis.bundled.enabled .Values.gcsFaultTolerance.redisAddress -}}
{{- fail "gcsFaultTolerance.redisAddress is set, and redis.bundled.enabled is true: it is for an external Redis" -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkEngines" -}}
{{- $e := .Values.engines -}}
{{- $tp := int $e.tensorParallelSize -}}
{{- $names := list "gateway" "headgroup" -}}
{{- range $number, $_ := $e.groups -}}
{{- $group := include "aloraserve.group" . | fromYaml -}}
{{- $at := printf "engines.groups[%d]" $number -}}
{{- if has $group.name $names -}}
{{- fail (printf "%s.name is %q, which another group of pods has" $at $group.name) -}}
{{- end -}}
{{- $names = append $names $group.name -}}
{{- $gpus := int $group.gpus -}}
{{- if and $gpus (ne $e.profile "gpu") -}}
{{- fail (printf "%s.gpus is %d with engines.profile %s: GPUs are for the profile gpu" $at $gpus $e.profile) -}}
{{- end -}}
{{- if eq $e.profile "gpu" -}}
{{- if or (lt $gpus $tp) (mod $gpus $tp) -}}
{{- fail (printf "%s.gpus is %d with engines.tensorParallelSize %d: a multiple of it, and at least it, is accepted" $at $gpus $tp) -}}
{{- end -}}
{{- if ne (int $group.enginesPerPod) 1 -}}
{{- fail (printf "%s.enginesPerPod is %d with engines.profile gpu: gpus decides how many there are" $at (int $group.enginesPerPod)) -}}
{{- end -}}
{{- if hasKey (get ($group.resources | default $e.resources) "limits" | default dict) $e.gpuResource -}}
{{- fail (printf "%s.resources has %s: gpus decides how many there are" $at $e.gpuResource) -}}
{{- end -}}
{{- else if gt $tp 1 -}}
{{- fail (printf "engines.tensorParallelSize is %d with engines.profile %s: more than 1 is for the profile gpu" $tp $e.profile) -}}
{{- end -}}
{{- if gt (int (include "aloraserve.enginesPerPod" (dict "root" $ "group" $group))) 16 -}}
{{- fail (printf "%s: a pod has at most 16 engines" $at) -}}
{{- end -}}
{{- end -}}
{{- if and $e.args (eq $e.profile "simulated") -}}
{{- fail "engines.args is set with engines.profile simulated: they are arguments of vLLM" -}}
{{- end -}}
{{- if hasKey $e.args "tensor_parallel_size" -}}
{{- fail "engines.args.tensor_parallel_size is set by another value: engines.tensorParallelSize" -}}
{{- end -}}
{{- if and (hasPrefix "/" .Values.model.name) (not (hasPrefix (printf "%s/" (trimSuffix "/" .Values.model.mountPath)) (printf "%s/" .Values.model.name))) -}}
{{- fail (printf "model.name is %q, which is not below model.mountPath %q" .Values.model.name .Values.model.mountPath) -}}
{{- end -}}
{{- if and (hasPrefix "/" .Values.model.name) (not .Values.model.existingClaim) -}}
{{- fail (printf "model.existingClaim is empty: model.name %q is a folder of a volume" .Values.model.name) -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkScaling" -}}
{{- $a := .Values.autoscaling -}}
{{- if $a.enabled -}}
{{- if gt (int $a.minReplicas) (int $a.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d with autoscaling.maxReplicas %d: at most that is accepted" (int $a.minReplicas) (int $a.maxReplicas)) -}}
{{- end -}}
{{- if gt (int $a.minGateways) (int $a.maxGateways) -}}
{{- fail (printf "autoscaling.minGateways is %d with autoscaling.maxGateways %d: at most that is accepted" (int $a.minGateways) (int $a.maxGateways)) -}}
{{- end -}}
{{- $room := int (include "aloraserve.engineRoom" (dict "root" .)) -}}
{{- if lt $room (int $a.maxReplicas) -}}
{{- fail (printf "autoscaling.maxReplicas is %d, and engines.groups have room for %d: raise their maxReplicas" (int $a.maxReplicas) $room) -}}
{{- end -}}
{{- end -}}
{{- range $number, $_ := .Values.engines.groups -}}
{{- $group := include "aloraserve.group" . | fromYaml -}}
{{- $isGiven := not (kindIs "invalid" $group.maxReplicas) -}}
{{- $least := $group.minReplicas | default 0 | int -}}
{{- $most := $isGiven | ternary $group.maxReplicas (include "aloraserve.maxPods" (dict "root" $ "group" $group)) | int -}}
{{- if and (or $isGiven $a.enabled) (gt $least $most) -}}
{{- $from := $isGiven | ternary "" (printf ", which follows from autoscaling.maxReplicas %d" (int $a.maxReplicas)) -}}
{{- fail (printf "engines.groups[%d].minReplicas is %d with maxReplicas %d%s: at most that is accepted" $number $least $most $from) -}}
{{- end -}}
{{- end -}}
{{- if and (not $a.enabled) (lt (int (include "aloraserve.engineRoom" (dict "root" .))) 1) -}}
{{- fail "engines.groups have replicas 0 together: without autoscaling.enabled at least one engine is needed" -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkUpgrade" -}}
{{- $u := .Values.upgradeStrategy -}}
{{- if include "aloraserve.isIncremental" . -}}
{{- if not $u.gatewayClassName -}}
{{- fail "upgradeStrategy.gatewayClassName is empty: NewClusterWithIncrementalUpgrade needs a GatewayClass" -}}
{{- end -}}
{{- if not .Values.autoscaling.enabled -}}
{{- fail "autoscaling.enabled is false: upgradeStrategy.type NewClusterWithIncrementalUpgrade needs it" -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
{{- fail "tls.enabled is true: KubeRay's Gateway of NewClusterWithIncrementalUpgrade speaks HTTP to the pods" -}}
{{- end -}}
{{- if gt (int $u.stepSizePercent) (int $u.maxSurgePercent) -}}
{{- fail (printf "upgradeStrategy.stepSizePercent is %d with maxSurgePercent %d: at most that is accepted" (int $u.stepSizePercent) (int $u.maxSurgePercent)) -}}
{{- end -}}
{{- else if $u.gatewayClassName -}}
{{- fail (printf "upgradeStrategy.gatewayClassName is %q with type %s: it is for NewClusterWithIncrementalUpgrade" $u.gatewayClassName $u.type) -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkEdges" -}}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) -}}
{{- fail "tls.secretName is empty: tls.enabled needs a Secret with tls.crt and tls.key" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts is empty: ingress.enabled needs a host" -}}
{{- end -}}
{{- range $kind := list "httpRoute" "grpcRoute" -}}
{{- $route := get $.Values $kind -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty: %s.enabled needs a Gateway" $kind $kind) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpc.enabled) -}}
{{- fail "grpcRoute.enabled is true and grpc.enabled is false: gateways have no gRPC" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.scrapeConfig.enabled -}}
{{- fail "metrics.podMonitor.enabled and metrics.scrapeConfig.enabled are both true: every process would be scraped twice" -}}
{{- end -}}
{{- if and .Values.metrics.scrapeConfig.enabled (not .Values.metrics.scrapeConfig.keySecret.name) -}}
{{- fail "metrics.scrapeConfig.keySecret.name is empty: gateways list processes for an administrator's key" -}}
{{- end -}}
{{- if and .Values.tls.enabled .Values.tls.clientCa -}}
{{- if and .Values.metrics.scrapeConfig.enabled (not .Values.metrics.scrapeConfig.tlsConfig.cert) -}}
{{- fail "metrics.scrapeConfig.tlsConfig.cert is empty: with tls.clientCa gateways ask Prometheus for a certificate" -}}
{{- end -}}
{{- if and .Values.loadtest.enabled (not .Values.tls.clientSecretName) -}}
{{- fail "tls.clientSecretName is empty: with tls.clientCa gateways ask the load test for a certificate" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.loadtest.enabled (not .Values.loadtest.keySecret.name) -}}
{{- fail "loadtest.keySecret.name is empty: the API answers nobody without a key" -}}
{{- end -}}
{{- range $role := list "gateway" "engines" -}}
{{- $pdb := (get $.Values $role).podDisruptionBudget -}}
{{- if and $pdb.enabled (eq (kindIs "invalid" $pdb.minAvailable) (kindIs "invalid" $pdb.maxUnavailable)) -}}
{{- fail (printf "%s.podDisruptionBudget: one of minAvailable and maxUnavailable is needed, and the other null" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.checkGrace" -}}
{{- $needed := int (include "aloraserve.graceSeconds" .) -}}
{{- $layers := list (dict "at" "head" "pod" .Values.head) (dict "at" "gateway" "pod" .Values.gateway) (dict "at" "engines" "pod" .Values.engines) (dict "at" "pods" "pod" .Values.pods) -}}
{{- range $number, $group := .Values.engines.groups -}}
{{- $layers = append $layers (dict "at" (printf "engines.groups[%d]" $number) "pod" $group) -}}
{{- end -}}
{{- range $layers -}}
{{- $given := .pod.terminationGracePeriodSeconds -}}
{{- if and $given (lt (int $given) $needed) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d: running answers need %d (see config.drain_timeout_s)" .at (int $given) $needed) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets that values name: the value, its name, and a key; without one any key will do. */ -}}
{{- define "aloraserve.namedSecrets" -}}
{{- $v := .Values -}}
{{- $external := $v.redis.external.enabled -}}
{{- $gcs := and $external $v.gcsFaultTolerance.enabled -}}
{{- $named := list
  (list "keys.apiKeys.secretName" $v.keys.apiKeys.secretName $v.keys.apiKeys.secretKey)
  (list "keys.adminKeys.secretName" $v.keys.adminKeys.secretName $v.keys.adminKeys.secretKey)
  (list "keys.pepper.secretName" $v.keys.pepper.secretName $v.keys.pepper.secretKey)
  (list "model.hfToken.secretName" $v.model.hfToken.secretName $v.model.hfToken.secretKey)
  (list "rayAuth.secretName" $v.rayAuth.secretName "auth_token")
  (list "redis.bundled.secretName" ($v.redis.bundled.enabled | ternary $v.redis.bundled.secretName "") "password")
  (list "redis.external.secretName" ($external | ternary $v.redis.external.secretName "") $v.redis.external.urlKey)
  (list "redis.external.filesSecretName" ($external | ternary $v.redis.external.filesSecretName "") "")
  (list "gcsFaultTolerance.username.secretName" ($gcs | ternary $v.gcsFaultTolerance.username.secretName "") $v.gcsFaultTolerance.username.secretKey)
  (list "gcsFaultTolerance.password.secretName" ($gcs | ternary $v.gcsFaultTolerance.password.secretName "") $v.gcsFaultTolerance.password.secretKey)
  (list "tls.secretName" ($v.tls.enabled | ternary $v.tls.secretName "") "tls.crt")
  (list "tls.secretName" ($v.tls.enabled | ternary $v.tls.secretName "") "tls.key")
  (list "metrics.scrapeConfig.keySecret.name" ($v.metrics.scrapeConfig.enabled | ternary $v.metrics.scrapeConfig.keySecret.name "") $v.metrics.scrapeConfig.keySecret.key)
  (list "tests.keySecret.name" $v.tests.keySecret.name $v.tests.keySecret.key)
  (list "loadtest.keySecret.name" ($v.loadtest.enabled | ternary $v.loadtest.keySecret.name "") $v.loadtest.keySecret.key) -}}
{{- if and $external $v.redis.external.cellUrlsKey -}}
{{- $named = append $named (list "redis.external.cellUrlsKey" $v.redis.external.secretName $v.redis.external.cellUrlsKey) -}}
{{- end -}}
{{- if and $v.tls.enabled $v.tls.clientCa -}}
{{- $named = append $named (list "tls.secretName" $v.tls.secretName "ca.crt") -}}
{{- range list "tls.crt" "tls.key" -}}
{{- $named = append $named (list "tls.clientSecretName" $v.tls.clientSecretName .) -}}
{{- end -}}
{{- end -}}
{{- range $number, $one := $v.image.pullSecrets -}}
{{- $named = append $named (list (printf "image.pullSecrets[%d].name" $number) $one.name "") -}}
{{- end -}}
{{- $named | toJson -}}
{{- end -}}

{{- /* Where a cluster can be asked: whether the Secrets are there that values name, with their keys. */ -}}
{{- define "aloraserve.checkSecrets" -}}
{{- if lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- range include "aloraserve.namedSecrets" . | fromJsonArray -}}
{{- $at := index . 0 }}{{- $name := index . 1 }}{{- $key := index . 2 -}}
{{- if $name -}}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace $name -}}
{{- if not $secret -}}
{{- fail (printf "%s is %q: there is no such Secret in the namespace %s" $at $name $.Release.Namespace) -}}
{{- end -}}
{{- if and $key (not (hasKey (get $secret "data" | default dict) $key)) -}}
{{- fail (printf "%s: the Secret %q has no key %q" ($at | trimSuffix ".secretName") $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
