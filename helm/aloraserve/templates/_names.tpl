{{- /* Names, labels and images. */ -}}

{{- define "aloraserve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "aloraserve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "aloraserve.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "aloraserve.name" .) -}}
{{- end -}}
{{- end -}}

{{- define "aloraserve.selector" -}}
app.kubernetes.io/name: {{ include "aloraserve.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "aloraserve.labels" -}}
{{- $own := include "aloraserve.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "aloraserve" -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- merge $own (.labels | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* Labels of a pod of Ray, without versions: any change of it makes a second cluster. */ -}}
{{- define "aloraserve.podLabels" -}}
{{- $own := include "aloraserve.selector" . | fromYaml -}}
{{- merge $own (.labels | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- /* The metadata of an object: root, name (appended), component, labels and annotations of its own. */ -}}
{{- define "aloraserve.metadata" -}}
name: "{{ include "aloraserve.fullname" .root }}{{ with .name }}-{{ . }}{{ end }}"
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "aloraserve.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "aloraserve.image" -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .repository -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end -}}
{{- end -}}

{{- /* An image of this project: root, the role's image, and the profile that it was built for. */ -}}
{{- define "aloraserve.ownImage" -}}
{{- $common := .root.Values.image -}}
{{- $tag := .image.tag | default (printf "%s-%s" ($common.tag | default .root.Chart.AppVersion) .profile) -}}
{{- $repository := .image.repository | default $common.repository -}}
{{- include "aloraserve.image" (dict "registry" $common.registry "repository" $repository "tag" $tag "digest" .image.digest) -}}
{{- end -}}

{{- define "aloraserve.engineImage" -}}
{{- $profile := get (dict "gpu" "cuda" "cpu" "cpu" "simulated" "gateway") .Values.engines.profile -}}
{{- include "aloraserve.ownImage" (dict "root" . "image" .Values.engines.image "profile" $profile) -}}
{{- end -}}

{{- define "aloraserve.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "aloraserve.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* Names of Secrets and claims: the operator's own, else those that the chart makes. */ -}}
{{- define "aloraserve.rayTokenSecret" -}}
{{- .Values.rayAuth.secretName | default (printf "%s-ray-token" (include "aloraserve.fullname" .)) -}}
{{- end -}}

{{- define "aloraserve.pepperSecret" -}}
{{- .Values.keys.pepper.secretName | default (printf "%s-key-pepper" (include "aloraserve.fullname" .)) -}}
{{- end -}}

{{- define "aloraserve.redisSecret" -}}
{{- .Values.redis.bundled.secretName | default (printf "%s-redis" (include "aloraserve.fullname" .)) -}}
{{- end -}}

{{- /* The client certificate of `helm test` and the load test: the Secret's name, if gateways ask for one. */ -}}
{{- define "aloraserve.clientSecret" -}}
{{- if and .Values.tls.enabled .Values.tls.clientCa }}{{ .Values.tls.clientSecretName }}{{ end -}}
{{- end -}}

{{- define "aloraserve.claim" -}}
{{- if .claim.existingClaim -}}
{{- .claim.existingClaim -}}
{{- else if .claim.create -}}
{{- printf "%s-%s" (include "aloraserve.fullname" .root) .name -}}
{{- end -}}
{{- end -}}

{{- /* A secret that stays what it was over upgrades: root, name, key, and how long it is. */ -}}
{{- define "aloraserve.keptSecret" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- $value := get (get ($found | default dict) "data" | default dict) .key -}}
{{- $value | default (randAlphaNum 48 | b64enc) -}}
{{- end -}}
