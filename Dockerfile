# keysidecar as an image: one static program, certificate authorities, a user, and
# nothing else. Built for amd64 and arm64:
#
#   docker build -t keysidecar .                            (make image)
#   docker buildx build --platform linux/amd64,linux/arm64 ...
#
# The images it is built from are arguments, so that a mirror, or one pinned by its
# digest, can be named: --build-arg BUILD_IMAGE=mirror.example/golang@sha256:...
ARG BUILD_IMAGE=golang:1.26.8-bookworm
ARG BASE_IMAGE=scratch

# Compiles on the machine's own architecture for the one that is asked for.
FROM --platform=${BUILDPLATFORM} ${BUILD_IMAGE} AS build
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=devel
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# -trimpath and no VCS stamp: the same source and compiler give the same bytes.
RUN GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.version=${VERSION}" -o /out/keysidecar ./cmd/keysidecar \
 && mkdir -p /out/run /out/etc/ssl/certs /socket \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && cp LICENSE /out/LICENSE \
 && echo 'keysidecar:x:65532:65532:keysidecar:/:/keysidecar' >/out/etc/passwd \
 && echo 'keysidecar:x:65532:' >/out/etc/group

FROM ${BASE_IMAGE}
ARG VERSION=devel
ARG REVISION=
LABEL org.opencontainers.image.title="keysidecar" \
      org.opencontainers.image.description="Answers from memory whether a key may still be used, and hears of revocations within milliseconds" \
      org.opencontainers.image.source="https://github.com/keysidecar/keysidecar" \
      org.opencontainers.image.documentation="https://github.com/keysidecar/keysidecar/blob/main/docs/operations.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# The socket's folder belongs to the user, and so does a new volume mounted there.
COPY --from=build --chown=65532:65532 /socket/ /run/keysidecar/
USER 65532:65532
# Metrics and probes. The data plane is the socket in /run/keysidecar.
EXPOSE 9476
# For engines without probes of their own; Kubernetes ignores it.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["/keysidecar", "healthcheck", "--live"]
ENTRYPOINT ["/keysidecar"]
CMD ["serve"]
