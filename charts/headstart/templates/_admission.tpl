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
{{- $terms = .nodeSelectorTerms -}}
{{- end -}}{{- end -}}
{{- toJson $terms -}}
{{- end -}}

{{/* The same for CEL, which takes members of different forms in no map and no list. */}}
{{- define "headstart.admission.agentTermsInCel" -}}
{{- $terms := list -}}
{{- range include "headstart.admission.agentTerms" . | fromJsonArray -}}
{{- $expressions := list -}}
{{- range .matchExpressions -}}
{{- $values := "" -}}
{{- with .values -}}{{- $values = printf ",\"values\":dyn(%s)" (toJson .) -}}{{- end -}}
{{- $expressions = append $expressions (printf "{\"key\":dyn(%s),\"operator\":dyn(%s)%s}" (toJson .key) (toJson .operator) $values) -}}
{{- end -}}
{{- $terms = append $terms (printf "{\"matchExpressions\":[%s]}" (join "," $expressions)) -}}
{{- end -}}
[{{ join "," $terms }}]
{{- end -}}
