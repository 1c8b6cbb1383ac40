"""A store's public face: what SeaweedFS leaves out and clients of the real clouds rely on.

| | SeaweedFS | here |
|---|---|---|
| DELETE of a bucket that holds versions | deletes them all | 409 BucketNotEmpty |
| GET ?location | always empty | the region |
| x-amz-bucket-region | missing | the region |
| the store is down | connection refused | 503 ServiceUnavailable |
| an upload breaks off half way | what came of it, be it nothing, takes the object's place | nothing was written |
| versioning can't be suspended: Object Lock | its own words | AWS's words, which its providers go by |
| tags of buckets at AWS | lab/buckettags.py | lab/buckettags.py |

Whether a bucket is empty nginx can't know: it asks ``lab.bucketguard``, which answers for tags too.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.objectstore import AWS_STORE, INSIDE, StoreSpec

GUARD_PORT = 18199
STORE_HEADER = "X-Lab-Store"  # names the store in whose place the guard answers

CONTROL_PATH = "/v20180820/"

_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_EMPTY_LOCATION = "<CreateBucketConfiguration><LocationConstraint></LocationConstraint></CreateBucketConfiguration>"
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"
_BAD_STATE = "The bucket is not in a valid state for the requested operation"
_LOCKED = "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."


@dataclass(frozen=True)
class Front:
    """Listens for a store, and passes on to its gateway (``upstream``, host:port). ``guard``: host:port.

    ``tags``: buckets can be made with tags, and S3 Control is served.
    """

    name: str
    address: str
    port: int
    upstream: str
    region: str
    domain: str | None
    guard: str = f"{INSIDE}:{GUARD_PORT}"
    tags: bool = False


def of(store: StoreSpec, guard: str = f"{INSIDE}:{GUARD_PORT}") -> Front:
    """The front of a store."""
    upstream = f"{store.inside}:{store.inside_ports()['s3']}"
    return Front(
        store.name,
        store.address,
        store.port,
        upstream,
        store.region,
        store.domain,
        guard,
        tags=store.name == AWS_STORE,
    )


def configuration(front: Front) -> str:
    """The part of nginx.conf (inside ``http``) that is this front."""
    name = front.name
    buckets = "\n    ".join(_bucket_patterns(front.domain))
    create = '"~^PUT\\|[^|]+\\|(x-id=CreateBucket)?$" create;' if front.tags else ""
    in_place = _in_place(front)
    control = f"location {CONTROL_PATH} {{{in_place}}}" if front.tags else ""
    return f"""
  # --- {name}
  upstream store_{name} {{
    server {front.upstream};
    keepalive 32;
    keepalive_timeout 60s;  # below SeaweedFS's own 120 s
  }}
  map "$http_host|$request_uri" $bucket_{name} {{
    default "";
    {buckets}
  }}
  map "$request_method|$bucket_{name}|$args" $special_{name} {{
    default "";
    "~^DELETE\\|[^|]+\\|(x-id=DeleteBucket)?$" delete;
    "~^GET\\|[^|]+\\|location=?(&|$)" location;
    "~^PUT\\|[^|]+\\|versioning=?(&|$)" versioning;
    {create}
  }}
  server {{
    listen {front.address}:{front.port};
    add_header x-amz-bucket-region {front.region} always;
    proxy_request_buffering on;  # SeaweedFS gets whole bodies only
    client_body_buffer_size 1m;
    recursive_error_pages on;  # 418 to 421 only pick a location: what goes wrong there is an error again
    location / {{
      error_page 418 = @delete;
      error_page 419 = @location;
      error_page 420 = @versioning;
      error_page 421 = @create;
      error_page 502 504 =503 @down;
      if ($special_{name} = delete) {{ return 418; }}
      if ($special_{name} = location) {{ return 419; }}
      if ($special_{name} = versioning) {{ return 420; }}
      if ($special_{name} = create) {{ return 421; }}
      proxy_pass http://store_{name};
    }}
    location @delete {{
      auth_request /-/guard;
      error_page 403 =409 @not_empty;
      error_page 500 502 504 =503 @down;
      proxy_pass http://store_{name};
    }}
    location = /-/guard {{
      internal;
      proxy_pass http://{front.guard}/{name}/$bucket_{name};
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_pass_request_headers off;
    }}
    location @location {{
      proxy_pass http://store_{name};
      sub_filter_types application/xml;
      sub_filter '{_EMPTY_LOCATION}' '<LocationConstraint xmlns="{_S3}">{front.region}</LocationConstraint>';
    }}
    location @versioning {{
      error_page 502 504 =503 @down;
      proxy_pass http://store_{name};
      sub_filter_types application/xml;
      sub_filter '<Message>{_BAD_STATE}</Message>' '<Message>{_LOCKED}</Message>';
    }}
    location @create {{{in_place}}}
    {control}
    location @not_empty {{
      default_type application/xml;
      return 409 '{_error("BucketNotEmpty", "The bucket you tried to delete is not empty")}';
    }}
    location @down {{
      default_type application/xml;
      return 503 '{_error("ServiceUnavailable", "The service is unavailable. Please retry.")}';
    }}
  }}"""


def _in_place(front: Front) -> str:
    """The guard answers, with the request as it came."""
    return f"""
      error_page 502 504 =503 @down;
      proxy_pass http://{front.guard};
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header {STORE_HEADER} {front.name};
      proxy_request_buffering on;
    """


def _bucket_patterns(domain: str | None) -> list[str]:
    """The bucket of a request for a bucket itself: its name below the store's domain, else the path's only part."""
    if domain is None:
        return ['"~^[^|]*\\|/(?<first>[^/?]+)/?(\\?.*)?$" $first;']
    own = domain.replace(".", "\\.")
    return [
        f'"~*^(?<named>[^|]+)\\.{own}(:[0-9]+)?\\|/(\\?.*)?$" $named;',
        f'"~*^({own}|[0-9.]+)(:[0-9]+)?\\|/(?<first>[^/?]+)/?(\\?.*)?$" $first;',
    ]


def _error(code: str, message: str) -> str:
    return f"{_XML}<Error><Code>{code}</Code><Message>{message}</Message><RequestId>$request_id</RequestId></Error>"
