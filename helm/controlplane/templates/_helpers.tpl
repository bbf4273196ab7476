{{- define "controlplane.name" -}}
{{- default (printf "%s-controlplane" .Release.Name) .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects pods. Call with (dict "root" $ "part" "gateway"). */}}
{{- define "controlplane.selector" -}}
app.kubernetes.io/name: controlplane
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "controlplane.labels" -}}
{{ include "controlplane.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "controlplane.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The pod's security context; the number is user, group and owner of volumes alike. */}}
{{- define "controlplane.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "controlplane.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A file path as a ConfigMap key, which may not hold a slash. */}}
{{- define "controlplane.key" -}}
{{- . | replace "/" "__" -}}
{{- end -}}

{{/* The policy files as JSON, path to text: those of the values, else those that come with the chart. */}}
{{- define "controlplane.policies" -}}
{{- $files := .Values.policy.files -}}
{{- if not $files -}}
{{- $files = dict -}}
{{- range $path, $bytes := .Files.Glob "files/policies/**" -}}
{{- if not (hasSuffix ".md" $path) -}}
{{- $_ := set $files (trimPrefix "files/policies/" $path) (toString $bytes) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* The gateway's settings: defaults of the chart, over them the operator's, over them what the chart itself decides. */}}
{{- define "controlplane.settings" -}}
{{- $name := include "controlplane.name" . -}}
{{- $host := printf "%s-gateway" $name -}}
{{- $hosts := list $host (printf "%s.%s" $host .Release.Namespace) (printf "%s.%s.svc" $host .Release.Namespace) "127.0.0.1" "localhost" -}}
{{- $server := dict "allowed_hosts" $hosts "public_url" (printf "http://%s.%s:8080" $host .Release.Namespace) -}}
{{- $defaults := dict "server" $server "audit" (dict "origin" (printf "%s.%s/audit" $name .Release.Namespace)) -}}
{{- $data := "/var/lib/controlplane" -}}
{{- $keys := ternary "/etc/controlplane-keys" (printf "%s/audit" $data) (ne .Values.ledger.keysSecret "") -}}
{{- $audit := dict "path" (printf "%s/audit/ledger.sqlite" $data) "signing_key" (printf "%s/signing.key" $keys) "commitment_key" (printf "%s/commitment.key" $keys) -}}
{{- $own := dict
      "state" (printf "%s/state" $data)
      "server" (dict "host" "0.0.0.0" "http_port" 8080 "grpc_port" 8500)
      "policy" (dict "path" "/etc/controlplane-policies")
      "audit" $audit
      "telemetry" (dict "metrics_host" "0.0.0.0" "metrics_port" 9464)
      "backends" (dict) -}}
{{- if .Values.registry -}}{{- $_ := set $own "registry" "/etc/controlplane/registry.yaml" -}}{{- end -}}
{{- if .Values.tfserving.enabled -}}
{{- $models := dict -}}
{{- range $model, $folder := .Values.tfserving.models -}}{{- $_ := set $models $model (printf "/models/%s" $folder) -}}{{- end -}}
{{- $_ := set $own.backends .Values.tfserving.backend (dict "kind" "tfserving" "target" (printf "%s-tfserving:8500" $name) "models" $models) -}}
{{- end -}}
{{- if .Values.vllm.enabled -}}
{{- $_ := set $own.backends .Values.vllm.backend (dict "kind" "openai" "base_url" (printf "http://%s-vllm:8000/v1" $name) "served_model" .Values.vllm.servedModel) -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite $defaults (deepCopy .Values.settings) $own) -}}
{{- end -}}

{{- define "controlplane.monitorSettings" -}}
{{- $name := include "controlplane.name" . -}}
{{- $own := dict
      "gateway_url" (printf "http://%s-gateway:8080" $name)
      "token_file" "/etc/controlplane-token/token"
      "state_dir" "/var/lib/controlplane"
      "models_root" "/models" -}}
{{- if .Values.monitor.metrics -}}{{- $_ := set $own "telemetry" (dict "metrics_host" "0.0.0.0" "metrics_port" 9464) -}}{{- end -}}
{{- toYaml (mustMergeOverwrite (deepCopy .Values.monitor.settings) $own) -}}
{{- end -}}

{{- define "controlplane.modelsClaim" -}}
{{- default (printf "%s-models" (include "controlplane.name" .)) .Values.models.existingClaim -}}
{{- end -}}

{{/* A claim. Call with (dict "root" $ "part" "ledger" "mode" "ReadWriteOnce" "of" .Values.ledger). */}}
{{- define "controlplane.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "controlplane.name" .root }}-{{ .part }}
  labels:
    {{- include "controlplane.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [{{ .mode }}]
  {{- with .of.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .of.size }}
{{- end -}}
