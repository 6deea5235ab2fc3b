{{- /* The Serve config: what `serve deploy` would take as well. */ -}}
{{- define "aloraserve.serveConfig" -}}
{{- $v := .Values -}}
{{- $simulated := eq $v.engines.profile "simulated" -}}
# Gateways have HTTP servers of their own.
proxy_location: Disabled
logging_config:
  log_level: WARNING
applications:
  - name: aloraserve
    route_prefix: null
    import_path: aloraserve_services.app:build
    {{- if or (include "aloraserve.isOffline" .) $simulated }}
    runtime_env:
      env_vars:
        {{- if include "aloraserve.isOffline" . }}
        HF_HUB_OFFLINE: "1"
        {{- end }}
        {{- if $simulated }}
        RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP: "0"
        RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0"
        {{- end }}
    {{- end }}
    args:
      {{- $defaults := include "aloraserve.defaultSettings" . | fromYaml }}
      {{- merge (include "aloraserve.ownSettings" . | fromYaml) $v.config $defaults | toYaml | nindent 6 }}
    # Resources of our own keep each role on its pods, and Ray's autoscaler adds pods of the right group.
    deployments:
      - name: gateway
        max_surge_percent: {{ $v.rollout.gatewaySurgePercent }}
        ray_actor_options:
          num_cpus: 0
          resources: {aloraserve_gateway: 1}
      - name: engine
        ray_actor_options:
          num_cpus: {{ $v.engines.cpusPerReplica }}
          {{- if eq $v.engines.profile "gpu" }}
          num_gpus: {{ $v.engines.tensorParallelSize }}
          {{- end }}
          resources: {aloraserve_engine: 1}
{{- end -}}
