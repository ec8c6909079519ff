{{/* What objects are called, and what they all carry. */}}

{{- define "headstart.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "headstart.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "headstart.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Argument: a list of the root and a component. What selects its pods; it never changes. */}}
{{- define "headstart.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "headstart.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Argument: a list of the root and a component. */}}
{{- define "headstart.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{ include "headstart.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: headstart
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Argument: a list of the root and a component. Of pods: nothing that changes with the chart alone,
for that would restart them. */}}
{{- define "headstart.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "headstart.selector" . }}
app.kubernetes.io/part-of: headstart
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Argument: a list of the root and a component, then further annotations. */}}
{{- define "headstart.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "headstart.labels" . | nindent 2 }}
{{- $annotations := dict }}
{{- if gt (len .) 2 }}{{ $annotations = merge $annotations (index . 2) }}{{ end }}
{{- $annotations = merge $annotations $root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "headstart.daemon.account" -}}
{{- default (include "headstart.fullname" .) .Values.daemon.serviceAccount.name -}}
{{- end -}}

{{- define "headstart.agent.account" -}}
{{- default (printf "%s-agent" (include "headstart.fullname" .)) .Values.agent.serviceAccount.name -}}
{{- end -}}

{{/* Argument: a list of the root and an image's values. */}}
{{- define "headstart.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with $root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- $first := first $parts -}}
{{- if or (contains "." $first) (contains ":" $first) (eq "localhost" $first) -}}
{{- $repository = join "/" (rest $parts) -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The API server has policies that change objects, in their stable version. */}}
{{- define "headstart.hasPolicies" -}}
{{- if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}true{{- end -}}
{{- end -}}

{{/* What the daemon resolves names with. */}}
{{- define "headstart.daemon.sources" -}}
{{- with .Values.sources -}}
- --hub-endpoint={{ .hub.endpoint }}
{{- if .hub.tokenSecret.name }}
- --hub-token-file=/etc/headstart/hub/token
{{- end }}
{{- if .registries.loginSecret }}
- --registry-logins=/etc/headstart/registries/config.json
{{- end }}
{{- range .privateHosts }}
- --allow-private={{ . }}
{{- end }}
{{- range .plainHttpHosts }}
- --plain-http={{ . }}
{{- end }}
{{- if .authorities.configMap }}
- --ca-file=/etc/headstart/authorities/ca.crt
{{- end }}
{{- end -}}
{{- end -}}

{{/* The webhook serves where injection is by it, or by it and a policy. */}}
{{- define "headstart.webhook" -}}
{{- if has .Values.injection.mode (list "Auto" "Webhook") -}}true{{- end -}}
{{- end -}}

{{/* The Secret that somebody else keeps the webhook's certificate in. */}}
{{- define "headstart.webhookSecret" -}}
{{- if and (include "headstart.webhook" .) (eq .Values.injection.certificate.issuedBy "CertManager") -}}
{{- printf "%s-webhook" (include "headstart.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* How the daemon changes and steers pods. */}}
{{- define "headstart.daemon.admission" -}}
{{- if include "headstart.webhook" . -}}
{{- $name := include "headstart.fullname" . -}}
- --webhook-address=0.0.0.0:9443
- --webhook-names={{ $name }}.{{ .Release.Namespace }}.svc
- --webhook={{ $name }}
{{- if include "headstart.webhookSecret" . }}
- --webhook-cert-dir=/etc/headstart/webhook
{{- end }}
- --agent-nodes={{ include "headstart.admission.agentTerms" . | replace "$(" "$$(" }}
- --agent-pods=app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=agent
- --steering={{ get (dict "Preferred" "prefer" "Gate" "gate" "Off" "none") .Values.steering.mode }}
- --gate-deadline={{ .Values.steering.gateDeadlineSeconds }}
{{- end -}}
{{- end -}}

{{/* What the agents fetch with. */}}
{{- define "headstart.sources" -}}
{{- with .Values.sources -}}
- --endpoint={{ .hub.endpoint }}
{{- if .hub.tokenSecret.name }}
- --token-file=/etc/headstart/hub/token
{{- end }}
{{- if .registries.loginSecret }}
- --registry-config=/etc/headstart/registries/config.json
{{- end }}
{{- range .registries.trustedRealms }}
- --trust-realm={{ . }}
{{- end }}
{{- range .privateHosts }}
- --allow-private={{ . }}
{{- end }}
{{- range .plainHttpHosts }}
- --plain-http={{ . }}
{{- end }}
{{- if .authorities.configMap }}
- --ca-file=/etc/headstart/authorities/ca.crt
{{- end }}
{{- end -}}
{{- end -}}

{{- define "headstart.sourceMounts" -}}
{{- with .Values.sources -}}
{{- if .hub.tokenSecret.name }}
- {name: hub, mountPath: /etc/headstart/hub, readOnly: true}
{{- end }}
{{- if .registries.loginSecret }}
- {name: registries, mountPath: /etc/headstart/registries, readOnly: true}
{{- end }}
{{- if .authorities.configMap }}
- {name: authorities, mountPath: /etc/headstart/authorities, readOnly: true}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "headstart.sourceVolumes" -}}
{{- with .Values.sources -}}
{{- with .hub.tokenSecret }}{{ if .name }}
- name: hub
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: token}]}
{{- end }}{{ end }}
{{- with .registries.loginSecret }}
- name: registries
  secret: {secretName: {{ . }}, items: [{key: .dockerconfigjson, path: config.json}]}
{{- end }}
{{- with .authorities }}{{ if .configMap }}
- name: authorities
  configMap: {name: {{ .configMap }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- end }}{{ end }}
{{- end -}}
{{- end -}}
