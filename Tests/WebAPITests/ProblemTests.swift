import Testing
import WebAPI

@Test("a problem keeps its code")
func problemCode() {
    #expect(Problem(status: 404, code: "not-found", title: "Not found", detail: "").code == "not-found")
}
