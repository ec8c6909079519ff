{{/* Namespaces whose pods are changed. */}}
{{- define "headstart.admission.namespaces" -}}
{{- with .Values.injection.namespaceSelector.matchLabels }}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, {{ .Release.Namespace }}]}
  - {key: headstart.dev/ignore, operator: NotIn, values: ["true"]}
  {{- with .Values.injection.namespaceSelector.matchExpressions }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Pods of these that are changed. */}}
{{- define "headstart.admission.objects" -}}
{{- with .Values.injection.objectSelector.matchLabels }}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
matchExpressions:
  - {key: headstart.dev/ignore, operator: NotIn, values: ["true"]}
  {{- with .Values.injection.objectSelector.matchExpressions }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Which nodes have an agent, as JSON: terms of node selectors, of which one is enough. None: every node. */}}
{{- define "headstart.admission.agentTerms" -}}
{{- $terms := list -}}
{{- with .Values.agent.affinity.nodeAffinity -}}{{- with .requiredDuringSchedulingIgnoredDuringExecution -}}
{{- range .nodeSelectorTerms -}}
{{- $expressions := list -}}
{{- range .matchExpressions -}}
{{- /* All of one form: CEL refuses lists whose members differ in theirs. */ -}}
{{- $expressions = append $expressions (dict "key" .key "operator" .operator "values" (default list .values)) -}}
{{- end -}}
{{- $terms = append $terms (dict "matchExpressions" $expressions) -}}
{{- end -}}
{{- end -}}{{- end -}}
{{- toJson $terms -}}
{{- end -}}
