// Package k8s checks the manifests of deploy/k8s: each is built by kustomize and
// decoded, strictly, into the types of Kubernetes and of Prometheus Operator, judged
// by the evaluator that the API server uses for the Pod Security Standards, and held
// against the program.
//
// It is a module of its own, so that the program's go.mod does not name them.
package k8s
