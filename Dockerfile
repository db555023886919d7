# The collector, on Debian's slim image: docker build -t metric-collectord .
#
# It listens on port 9999, and keeps its spool (and the embedded store, where no database is set) in
# /var/lib/metric-collectord.  Settings: the environment (DB_HOST, ...; see .env.example), or a file
# mounted as /etc/metric-collectord.conf.  Logs are JSON lines on standard error.

FROM debian:bookworm-slim AS build
RUN apt-get update && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		autoconf automake gcc gawk libc6-dev libconfuse-dev libpq-dev libsqlite3-dev \
		libsystemd-dev make pkg-config
COPY . /src
WORKDIR /build
RUN /src/autogen.sh && \
	/src/configure --prefix=/usr --sysconfdir=/etc --with-systemdsystemunitdir=no && \
	make -j"$(nproc)" && \
	make install-strip DESTDIR=/out && \
	rm -rf /out/usr/share/man

FROM debian:bookworm-slim AS runtime
RUN apt-get update && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		libconfuse2 libpq5 libsqlite3-0 libsystemd0 && \
	groupadd --system --gid 999 metric-collectord && \
	useradd --system --uid 999 --gid 999 --no-create-home --home-dir /var/lib/metric-collectord \
		--shell /usr/sbin/nologin metric-collectord && \
	install -d -m 750 -o metric-collectord -g metric-collectord /var/lib/metric-collectord && \
	rm -rf /usr/bin/apt* /usr/bin/perl* /usr/lib/*/perl* /usr/share/perl* /usr/share/doc/* \
		/usr/share/man/* /usr/share/locale/* /var/cache/* /var/lib/apt/* /var/log/*
COPY --from=build /out/ /

# One layer, without what was removed.
FROM scratch
COPY --from=runtime / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER metric-collectord
WORKDIR /var/lib/metric-collectord
VOLUME /var/lib/metric-collectord
EXPOSE 9999
# Asks the daemon itself: a sync frame, answered once everything that was received is on disk.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
	CMD case "$TCP_HOST" in *:*) host="[$TCP_HOST]" ;; *) host=${TCP_HOST:-127.0.0.1} ;; esac; \
		metric-send -s 1 -w 4 "$host:${TCP_PORT:-9999}" </dev/null
ENTRYPOINT ["metric-collectord"]
