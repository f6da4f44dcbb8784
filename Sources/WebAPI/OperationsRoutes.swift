import Gateway
package import Hummingbird
package import HTTPTypes
import Metrics
import NIOCore
import Synchronization
package import Vocabulary

/// What an operator's machines ask: alive, ready, how much.
enum OperationsRoutes {
    static func register(_ routes: Routes, _ readiness: Readiness) {
        routes.on(.health) { _, _ in .json(["status": "alive"]) }
        let gateway = routes.gateway
        routes.on(.readiness) { _, _ in
            guard readiness.isReady else { throw Problem.stopping }
            if let obstacle = gateway.trailObstacle { throw Problem.trailStopped(obstacle) }
            return .json(["status": "ready"])
        }
        let sessions = routes.door.desk.sessions
        routes.on(.metrics) { _, _ in
            Meter(label: "sekisho_sessions").set(sessions.count)
            Meter(label: "sekisho_trail_accepts_records").set(gateway.trailObstacle == nil ? 1 : 0)
            return Response(
                status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
                body: ResponseBody(byteBuffer: ByteBuffer(string: Prometheus.shared.text)))
        }
    }
}

/// Whether new work is welcome: from the first accepted connection until somebody asks the service to stop.
final class Readiness: Sendable {
    private let ready = Atomic(false)
    var isReady: Bool { ready.load(ordering: .acquiring) }
    func set(_ value: Bool) { ready.store(value, ordering: .releasing) }
}

extension Response {
    package static func json(_ json: JSON, status: HTTPResponse.Status = .ok) -> Response {
        Response(
            status: status, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: json.canonical)))
    }
}
