# calibrate as one static binary, for a Job inside the cluster (calibrate manifests --job):
#   docker build -t calibrate:0.1.0 .
#   docker run --rm calibrate:0.1.0 run --ramp --target http://10.0.0.7:8080 --slo ttft:p95:2s
FROM rust:1-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates cmake g++ make musl-tools \
 && rm -rf /var/lib/apt/lists/*
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY scenarios scenarios
COPY tests/bench tests/bench
# Without NVML, which is a library that a static binary cannot load.
RUN cargo build --locked --release --no-default-features --bin calibrate --target "$(uname -m)-unknown-linux-musl" \
 && mkdir -p /image/results /image/etc/ssl/certs \
 && cp target/*-unknown-linux-musl/release/calibrate /image/calibrate \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && chown 65532:65532 /image/results

FROM scratch
COPY --from=build /image /
# Nobody. Nothing is written but below /results, so the root may be read-only.
USER 65532:65532
WORKDIR /results
VOLUME /results
ENTRYPOINT ["/calibrate"]
